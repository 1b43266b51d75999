"""Driving a deploy: observe, store, carry out, record."""
