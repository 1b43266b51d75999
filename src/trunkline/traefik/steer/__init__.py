"""Traefik carries the bytes and requests each pick from the balancer."""
