"""Backends in a Kubernetes cluster: the endpoints of Services."""
