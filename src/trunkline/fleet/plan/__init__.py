"""What a fleet on one machine consists of, decided before anything is started."""
