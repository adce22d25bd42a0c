"""The verbs on storage: only here is the API known."""
