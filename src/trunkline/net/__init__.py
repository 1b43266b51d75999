"""Addresses, rate limits, admin tokens, plain sockets."""
