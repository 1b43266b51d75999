"""Moving clients to where there is room."""
