"""The API server of Kubernetes: where it is, how it is reached, lists and watches."""
