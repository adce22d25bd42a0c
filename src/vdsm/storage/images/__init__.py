"""Images and their volumes: made, read, copied, merged, removed (facts: storage §4, §9, §10)."""
