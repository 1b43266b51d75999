"""The fleet as a deploy sees it, and the orders it takes."""
