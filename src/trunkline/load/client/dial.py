"""Opens connections: address, source address, TCP, TLS, upgrade; every kind of failure has one short name.

Rules:

- The address is looked up once; connections take the addresses found in turn, and where one refuses, as with a server
  that listens for IPv4 alone behind a name that has both, the next.
- On loopback a source address 127.x.y.z is chosen for each connection, because one address has only 28,000 ports.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import picows

from trunkline.errors import SettingsError, StartError
from trunkline.load.model.plan import Target

_IP_BIND_ADDRESS_NO_PORT: Final = 24
"""Linux: choose the port at connect, when the destination is known too, so that ports can be reused."""

_READ_BUFFER: Final = 2048
MAX_FRAME: Final = 16 << 20

# Failures are counted and named here; 10,000 log lines of the library would add nothing.
logging.getLogger("picows").setLevel(logging.CRITICAL)


class DialError(Exception):
    """A connection could not be opened; the reason is the same for the same kind of failure, for counting."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s  # what the server requested


def split_url(url: str) -> SplitResult:
    """The parts of a target's URL; raises SettingsError when it is no URL of a WebSocket."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.fragment or any(ord(letter) <= 32 for letter in url):
        # Before an @ there may be a password, and in a query a token.
        shown = url if "@" not in url and "?" not in url else None
        raise SettingsError("URL", value=shown, allowed="allowed: ws://host:port/path or wss://host:port/path")
    return parts


def shown_url(url: str) -> str:
    """The URL without user, password and the values of its query, for reports."""
    parts = split_url(url)
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    query = "&".join(f"{part.partition('=')[0]}=…" for part in parts.query.split("&")) if parts.query else ""
    return f"{parts.scheme}://{host}{port}{parts.path or '/'}" + (f"?{query}" if query else "")


class Dialer:
    """Opens connections to one target; made by `Dialer.prepare`."""

    def __init__(
        self, target: Target, addresses: list[tuple[socket.AddressFamily, tuple[Any, ...]]], tls: ssl.SSLContext | None
    ) -> None:
        self._target = target
        self._addresses = addresses
        self._tls = tls
        self._count = 0
        self._headers: list[tuple[str, str]] = list(target.headers)
        parts = split_url(target.url)
        at = parts.netloc.rfind("@") + 1
        self._url = parts._replace(netloc=parts.netloc[at:]).geturl()
        if at and not target.token and not any(name.lower() == "authorization" for name, _ in target.headers):
            login = base64.b64encode(unquote_to_bytes(parts.netloc[: at - 1])).decode()
            self._headers.append(("Authorization", f"Basic {login}"))
        if target.subprotocols:
            self._headers.append(("Sec-WebSocket-Protocol", ", ".join(target.subprotocols)))

    @classmethod
    async def prepare(cls, target: Target) -> Dialer:
        """Look up the address and read the certificates; raises StartError when that fails."""
        parts = split_url(target.url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        try:
            found = await asyncio.wait_for(
                asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM), target.connect_timeout_s
            )
        except (OSError, UnicodeError, TimeoutError) as error:
            why = getattr(error, "strerror", None) or "no answer"
            raise StartError(f"no address was found for {host}: {why}", "Check the URL, or the name server.") from None
        addresses = [(socket.AddressFamily(family), address) for family, _, _, _, address in found]
        return cls(target, addresses, tls_context(target) if parts.scheme == "wss" else None)

    async def open(
        self, make: Callable[[], picows.WSListener], dialled: Callable[[float], None], token: str = "",
        session: str = "",
    ) -> None:  # fmt: skip
        """Open one connection; raises DialError.

        `make` makes its listener, `dialled` gets the seconds TCP took. A bearer `token` and the `session` of an earlier
        connection are sent unless they are empty.
        """
        headers = [*self._headers, ("Authorization", f"Bearer {token}")] if token else self._headers
        url = f"{self._url}{'&' if '?' in self._url else '?'}session={session}" if session else self._url
        try:
            async with asyncio.timeout(self._target.connect_timeout_s):
                began = time.monotonic()
                sock = await self._connected()
                try:
                    dialled(time.monotonic() - began)
                    await picows.ws_connect(
                        make, url, ssl_context=self._tls, socket_factory=lambda _: sock,
                        websocket_handshake_timeout=None, extra_headers=headers, max_redirects=0,
                        max_frame_size=MAX_FRAME, read_buffer_init_size=_READ_BUFFER,
                        use_aiofastnet=False,  # measured: the loop's own connections cost a fifth less to open
                    )  # fmt: skip
                except BaseException:
                    sock.close()
                    raise
        except (OSError, TimeoutError, picows.WSError, ValueError, asyncio.IncompleteReadError) as error:
            raise named(error) from None

    async def _connected(self) -> socket.socket:
        first = self._count % len(self._addresses)
        self._count += 1
        failed = OSError(errno.EADDRNOTAVAIL, "no address")
        for family, address in self._addresses[first:] + self._addresses[:first]:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                self._bind(sock, family, str(address[0]))
                await asyncio.get_running_loop().sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failed = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failed

    def _bind(self, sock: socket.socket, family: socket.AddressFamily, host: str) -> None:
        sources = self._target.sources
        if not sources or family != socket.AF_INET or not ipaddress.ip_address(host).is_loopback:
            return
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        high, low = divmod(self._count % sources, 250)
        sock.bind((f"127.0.{high}.{low + 1}", 0))


def tls_context(target: Target) -> ssl.SSLContext:
    """What verifies the certificates of a target and its servers; raises StartError when its CA file is unusable."""
    try:
        context = ssl.create_default_context(cafile=target.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"the CA file {target.ca_file} cannot be used: {error.strerror or error}",
            "Name a file of PEM certificates.",
        ) from None
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def named(error: BaseException) -> DialError:
    """The failure in a few words."""
    if isinstance(error, TimeoutError):
        return DialError("connect: timed out")
    if isinstance(error, ssl.SSLCertVerificationError):
        return DialError(f"TLS: certificate not accepted ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        return DialError(f"TLS: {(error.reason or 'handshake failed').lower().replace('_', ' ')}")
    if isinstance(error, picows.WSHandshakeError):
        response = error.response
        if response is not None and int(response.status) != 101:
            wanted = response.headers.get("Retry-After", "")
            phrase = getattr(response.status, "phrase", "")
            text = f"handshake: answered {int(response.status)} {phrase}".rstrip()
            if words := _words(error.raw_body, response.headers.get("Content-Type", "")):
                text += f": {words}"
            return DialError(text, float(wanted) if wanted.isdecimal() and len(wanted) < 6 else None)
        return DialError("handshake: the answer is no valid WebSocket upgrade")
    if isinstance(error, OSError) and error.errno:
        return DialError(f"connect: {_ERRNO.get(error.errno) or os.strerror(error.errno).lower()}")
    return DialError("handshake: connection ended before the answer")


_LONGEST_WORDS: Final = 120


def _words(body: bytes | None, content_type: str) -> str:
    """The first line of what a server says in plain text about its refusal; empty when it says nothing, or a page."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body or kind not in ("", "text/plain", "application/json", "application/problem+json"):
        return ""
    line = body[: 4 * _LONGEST_WORDS].decode(errors="replace").strip().partition("\n")[0]
    return "".join(sign if sign.isprintable() else " " for sign in line).strip()[:_LONGEST_WORDS]


_ERRNO: Final = {
    errno.ECONNREFUSED: "refused, nobody listens there",
    errno.ECONNRESET: "reset by the server",
    errno.EMFILE: "too many open files in the generator",
    errno.EADDRNOTAVAIL: "no source port left",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "no route to the network",
    errno.ETIMEDOUT: "timed out",
}
