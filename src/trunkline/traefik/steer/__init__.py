"""Traefik carries the bytes and asks the balancer for each connection."""
