"""The rules of the checker: each yields findings from everything that was given."""
