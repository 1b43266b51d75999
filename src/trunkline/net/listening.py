"""Sockets that listen."""

from __future__ import annotations

import socket
from typing import Final

BACKLOG: Final = 4096


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of `host`, on one port, non-blocking; an empty host means all interfaces.

    Raises OSError when one of them cannot be had; then none is left open.
    """
    if port > 65_535:  # the resolver would take 65536 for any port
        raise OSError("ports end at 65535")
    found: list[socket.socket] = []
    try:
        known = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(known):
            # Any free port is chosen once, and is the same for all.
            place = (address[0], port or (found[0].getsockname()[1] if found else 0), *address[2:])
            found.append(_listening(family, kind, protocol, place))
    except OSError:
        for sock in found:
            sock.close()
        raise
    return found


def _listening(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own where it is wanted.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
