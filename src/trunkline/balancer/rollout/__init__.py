"""Which release is the newest: the order of versions that all balancers of a fleet share."""
