"""Leases between hosts: ids in lockspaces, and external leases (facts: storage §6)."""
