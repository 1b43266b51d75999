"""Mistakes in a Traefik configuration, with file and line."""
