"""Who starts and stops the nodes of a colour."""
