"""The hypervisor behind libvirt: connections, calls with deadlines, events, samples; rules about VMs are virt's."""

from vdsm.adapters.libvirt.hypervisor import LibvirtHypervisor

__all__ = ["LibvirtHypervisor"]
