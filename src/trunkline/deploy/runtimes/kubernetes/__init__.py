"""The runtime of a fleet in a Kubernetes cluster: a Deployment for each colour."""
