"""Writing files whole, and YAML."""
