"""Series, declared once, and their exposition."""
