"""Programs for people: clients of the daemon's surface, and the tool that sets a node up."""
