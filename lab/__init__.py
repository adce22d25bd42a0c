"""A laboratory: hosts, storage servers, networks and their faults, all real, on one machine.

Every part is a context manager that stands alone and leaves nothing behind. Parts that need what this machine's kernel
may lack (device mapper, iSCSI, NFS, bonding) are used inside the lab VM, which `python -m lab` boots.
"""
