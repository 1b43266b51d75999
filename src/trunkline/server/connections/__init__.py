"""WebSocket connections of a node, their outboxes and timers."""
