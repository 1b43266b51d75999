"""The sessions of one process: dial, talk, count."""
