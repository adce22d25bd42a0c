"""Devices that come, go and change while a VM runs."""
