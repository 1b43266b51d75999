"""The control socket of a running fleet, and its messages."""
