"""Words that every room shares: ids, paths, errors, time, undo; no I/O and no field knowledge."""
