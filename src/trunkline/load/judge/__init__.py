"""What was lost, doubled or late, and what the servers say of it."""
