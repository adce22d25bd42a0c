"""The mailbox: how hosts ask the SPM for room, and are answered (facts: storage §7)."""
