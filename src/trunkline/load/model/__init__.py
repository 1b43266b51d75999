"""What a run is, what it counts and what comes out."""
