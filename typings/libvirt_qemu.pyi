# What the node uses of libvirt's qemu binding, which has no types of its own.
from libvirt import virDomain

def qemuAgentCommand(domain: virDomain, cmd: str, timeout: int, flags: int) -> str: ...
