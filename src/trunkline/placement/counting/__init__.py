"""How many connections a backend has."""
