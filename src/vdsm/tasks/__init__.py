"""Long work that goes on after its verb answered: states, records on the master domain, the engine that runs them."""
