"""Traefik: renders its configuration, checks it, and steers a running one."""
