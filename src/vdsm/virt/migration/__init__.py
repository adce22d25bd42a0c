"""Running VMs that move from host to host: decisions in plain modules, one that acts on each end."""
