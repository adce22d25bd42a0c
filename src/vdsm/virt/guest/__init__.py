"""Inside VMs: what agents there tell and are told; how their bytes travel is left to adapters."""
