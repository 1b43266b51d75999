"""What the installed Traefik itself says of the given files."""
