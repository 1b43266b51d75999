"""The servers that ours is compared with, each written the way its own documentation shows."""
