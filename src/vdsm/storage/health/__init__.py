"""The health of domains: read by a process of its own, judged by monitors (facts: storage §11)."""
