"""The sockets that clients connect to."""

from __future__ import annotations

import socket

from trunkline.errors import StartError
from trunkline.net.listening import listening_sockets
from trunkline.settings.balancer import BalancerSettings


def client_sockets(settings: BalancerSettings) -> list[socket.socket]:
    """Sockets that listen where the settings say, one for each address; raises StartError when the port is taken."""
    try:
        return listening_sockets(settings.host, settings.port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            "Stop what uses the port, or choose another with --listen or balancer.port.",
        ) from None
