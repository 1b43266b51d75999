"""A Kubernetes API server for tests, and what stands around one: controllers, kubelets."""
