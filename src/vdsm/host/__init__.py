"""The machine that carries the virtual machines: what it can do and how it fares."""
