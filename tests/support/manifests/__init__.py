"""The manifests of deploy/kubernetes and deploy/helm: rendered by the real programs, read as objects."""
