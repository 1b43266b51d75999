"""The lease of a deploy: who drives it, and when somebody else may."""
