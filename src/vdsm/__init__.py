"""Vdsm: the daemon that turns one Linux machine into a virtualization node."""

__version__ = "5.0.0"
