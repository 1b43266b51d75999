"""Which colours get new connections: the traffic table, as one balancer keeps, applies and serves it."""
