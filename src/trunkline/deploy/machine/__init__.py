"""The machine of a deploy: what is seen goes in, the next state and what to do come out."""
