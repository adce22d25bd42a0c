"""One file for each outside thing that the node drives; adapters fit the ports of the rooms and hold no policy."""
