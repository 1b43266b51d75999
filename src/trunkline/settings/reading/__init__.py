"""Where settings come from: files, the environment and flags, and what is checked of them together."""
