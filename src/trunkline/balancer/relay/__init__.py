"""The way in: handshakes, retries, and bytes that pass."""
