"""What a machine is checked for: each check is handed what was read and what is wanted, and says what to do. Pure."""
