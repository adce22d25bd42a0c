"""The kinds of storage: siblings of one shape (`ports.Kind`, `ports.Backend`); the repository chooses among them."""
