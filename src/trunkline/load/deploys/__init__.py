"""What a deploy asks of the load tester: can this machine watch it, do the new nodes serve, and was a message lost."""
