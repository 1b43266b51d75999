"""The fleet's store: what is the same for every kind of it, in memory, and in files of one machine."""
