"""Sockets that pass between processes, private ones, and free ports."""
