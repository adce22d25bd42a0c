"""The life of guests: specification, domain XML, states, figures, recovery; libvirt itself is left to an adapter."""
