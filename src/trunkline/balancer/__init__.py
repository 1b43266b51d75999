"""The balancer: fleet state, placement, health, sources of backends, relay, rebalancing."""
