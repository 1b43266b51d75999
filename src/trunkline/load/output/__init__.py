"""A run as people and programs read it: live view, summary, page, JUnit, comparison."""
