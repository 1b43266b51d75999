"""How a bus behaves, apart from its address: known without loading the bus. Pure."""

from __future__ import annotations

import msgspec


class NatsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the NATS bus behaves.

    Attributes:
        prefix: the first token of every subject and stream name; fleets that share a NATS differ in it.
        replicas: how many NATS servers hold each stream; 3 in a cluster.
        keep_s: how long the log is kept on the server at least, seconds. Longer than publications are served, so that a
            client of a quiet channel can learn that it missed nothing.
        max_bytes: the most each stream may take on disk, bytes. NATS reserves it when the stream is made.
        publish_timeout_s: how long to wait for an acknowledgement or an answer, seconds.
        tls_ca_file: the authority that signed the server's certificate, for a `tls://` address; None for the system's.
    """

    prefix: str = "trunkline"
    replicas: int = 1
    keep_s: float = 86_400.0
    max_bytes: int = 1 << 30
    publish_timeout_s: float = 2.0
    tls_ca_file: str | None = None
