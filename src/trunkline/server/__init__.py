"""A node: connections, channels, outboxes, limits and HTTP endpoints. `node.py` puts it together."""
