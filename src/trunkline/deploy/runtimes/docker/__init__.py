"""The runtime of a deploy whose nodes are containers of a Docker daemon."""
