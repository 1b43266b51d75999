"""Traefik's static and dynamic configuration."""
