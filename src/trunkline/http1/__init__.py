"""HTTP/1.1 heads, bodies and requests: one reader for node and relay."""
