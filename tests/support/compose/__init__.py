"""The compose stack on a daemon of the tests, with images made of the machine's own programs."""
