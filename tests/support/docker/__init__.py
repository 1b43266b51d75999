"""A Docker daemon of the tests' own, and the product's image on it, built without a registry."""
