"""Whether a port can be listened on, tried before the program that wants it is started."""

from __future__ import annotations

import errno
import random
import socket
from typing import Final

NEVER_CLIENTS: Final = (15_000, 32_000)
"""Ports below those that Linux (from 32,768), macOS and Windows (from 49,152) give to clients."""


def free_first_port(span: int) -> int | None:
    """A port from which on `span` ports are free on loopback; None when none was found."""
    for _ in range(200):
        # Not from where the system takes ports for clients: between two of a thousand connections there is no room, and
        # what is free now would be a client's in a moment.
        first = random.randrange(*NEVER_CLIENTS)  # noqa: S311 - a port is no secret
        if all(why_unusable("127.0.0.1", port) is None for port in range(first, first + span)):
            return first
    return None


def why_unusable(host: str, port: int) -> str | None:
    """Why nothing can listen there, None when it can; an empty host means all addresses."""
    if port > 65_535:
        return "ports end at 65535"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return f"the address is unknown ({error.strerror})"
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a port whose last connections are still fading away is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            return "not permitted for this user"
        except OSError as error:
            return "already in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return None
