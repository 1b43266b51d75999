"""Channels: publications, fan-out, history, recovery."""
