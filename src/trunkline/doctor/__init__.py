"""Whether a machine is ready for a number of connections, and what to do where it is not."""
