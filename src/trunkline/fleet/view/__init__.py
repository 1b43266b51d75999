"""What a fleet shows to its audience: a terminal, lines or JSON."""
