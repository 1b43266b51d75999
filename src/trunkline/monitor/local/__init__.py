"""Prometheus and its neighbours on this machine."""
