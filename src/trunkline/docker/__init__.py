"""The Docker daemon: where it is, and how it is reached."""
