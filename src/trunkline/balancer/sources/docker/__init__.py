"""Backends on Docker: labelled containers of a daemon, and labelled services of a Swarm."""
