"""Whether a port can be listened on, tried before the program that wants it is started."""

from __future__ import annotations

import errno
import socket


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
