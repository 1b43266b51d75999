"""Whether a port can be listened on."""

from __future__ import annotations

import socket

from tests.support.free_ports import free_port
from trunkline.process.sockets.ports import why_unusable


def test_why_a_port_is_unusable() -> None:
    """Free ports have no reason; taken, foreign and impossible ones have one."""
    port = free_port()
    assert why_unusable("127.0.0.1", port) is None
    with socket.create_server(("127.0.0.1", port)):
        assert why_unusable("127.0.0.1", port) == "already in use"
    assert why_unusable("192.0.2.1", port) is not None
    assert "unknown" in (why_unusable("no.such.host.invalid", port) or "")
    assert why_unusable("127.0.0.1", 1_000_000) is not None
