"""Pools: their domains, their one writer, their versions (facts: storage §7)."""
