"""Disks of VMs that run, below what their guests see: layers, copies, sizes, backups."""
