"""Structured logs: set-up, files, ECS."""
