"""Several processes and machines that generate one load."""
