"""The dictionary of 2011 as a domain, one file for each of its parts."""
