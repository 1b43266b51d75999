"""Several relaying processes with one authoritative state."""
