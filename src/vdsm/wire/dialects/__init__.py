"""The old shapes, derived from the declarations; what differs in structure is one small function per verb."""
