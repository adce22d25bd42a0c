"""Figures of the daemon beside those of rivals in the same run; nothing here judges, the reader does."""
