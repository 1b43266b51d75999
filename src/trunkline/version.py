"""The version, where every room can read it without loading the public API."""

__version__ = "0.1.0"
