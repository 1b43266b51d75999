"""What a deploy shows while it runs: renewed in place on a terminal, lines elsewhere."""
