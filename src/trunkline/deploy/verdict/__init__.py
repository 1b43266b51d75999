"""The verdict: what a deploy did to its clients, in numbers, and whether that passes."""
