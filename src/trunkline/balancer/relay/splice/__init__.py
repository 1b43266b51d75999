"""A connection after its 101: bytes passed untouched between two sides."""
