"""The demo and the small Linux guest that it boots; a client of the daemon like any other."""
