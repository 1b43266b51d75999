"""Child processes of a fleet: started, watched, started again."""
