"""What backends are polled for: health and load."""
