"""Looking at a domain without a daemon: what is on it, what is wrong with it, and mending what is safe to mend."""
