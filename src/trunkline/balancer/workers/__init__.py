"""Several relaying processes with one truth."""
