"""Messages between clients, nodes and balancers; close codes; subjects."""
