"""What carries publications between nodes; the contract is in `base.py`. A bus is loaded when an address names it."""
