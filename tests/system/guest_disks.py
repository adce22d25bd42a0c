"""Writes to a disk of a VM that runs as its guest would: by qemu's own hand, through all that lies below the disk."""

from tests.system.private_libvirtd import PrivateLibvirtd


def write_to_disk(libvirtd: PrivateLibvirtd, vm_id: str, what: str) -> None:
    """`what` is of `qemu-io`: options, offset and length. It ends when the data is written."""
    disk = "/machine/peripheral/virtio-disk0/virtio-backend"
    command = f'qemu-io -d {disk} "write {what}"'
    told = libvirtd.run("virsh", "-q", "qemu-monitor-command", "--hmp", vm_id, command)
    assert "wrote" in told or not told.strip(), told
