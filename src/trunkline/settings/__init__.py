"""Settings: types, sections, source, check, load."""
