"""A node as a whole: start, drain, capacity, health, moves."""
