"""NATS: addresses, login, one connection."""
