"""What can go wrong in a benchmark."""


class BenchError(Exception):
    """A benchmark cannot go on; the message says which server did what."""
