"""The life of processes: signals, children, programs."""
