"""The bus over NATS JetStream."""

import trunkline.nats.library  # noqa: F401 - before anything imports nats-py
