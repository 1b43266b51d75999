"""Addresses, rate limits, the admin token, plain sockets."""
