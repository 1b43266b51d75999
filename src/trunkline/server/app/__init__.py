"""Applications: endpoints, clients, messages, the stock app."""
