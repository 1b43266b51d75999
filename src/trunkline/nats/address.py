"""Where NATS is, as an operator writes it, and without its secrets. Pure.

`nats://[user:password@|token@]host[:port][,…]`, or `tls://` for a connection that must be encrypted and verified.
Several servers of one cluster are separated by commas; the first user, password or token found counts for all.

Rule: what can be shown (`shown`) and what can log in are separate fields, and nothing ever joins them again. The URLs
handed to the client library hold no secret either, since it logs them.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import msgspec

from trunkline.errors import SettingsError

DEFAULT_PORT = 4222
KEY = "bus.address"
ALLOWED = "it must look like nats://host:4222 or tls://user:password@host:4222, several servers separated by commas"


class NatsAddress(msgspec.Struct, frozen=True):
    """A parsed address: URLs without secrets, and whether an unencrypted connection must be refused."""

    servers: tuple[str, ...]
    tls: bool
    user: str | None = None
    password: str | None = None
    token: str | None = None

    @property
    def shown(self) -> str:
        """The address for logs and messages, without secrets."""
        return ",".join(self.servers)

    def __repr__(self) -> str:
        return f"NatsAddress({self.shown})"

    # msgspec would otherwise show every field to a debugger's or a log's repr of a container.
    __str__ = __repr__


def parse_address(address: str) -> NatsAddress:
    """Read a `nats://` or `tls://` address; raises SettingsError, which never shows what was written."""
    servers: list[str] = []
    schemes: set[str] = set()
    user = password = token = None
    for part in address.split(","):
        text = part.strip()
        if servers and "://" not in text:
            text = f"{next(iter(schemes))}://{text}"
        try:
            url = urlsplit(text)
            host, port = url.hostname, url.port or DEFAULT_PORT
        except ValueError:
            # The reason may quote a piece of a mistyped password, so it is not passed on.
            raise SettingsError(KEY, allowed=ALLOWED) from None
        if url.scheme not in ("nats", "tls") or not host or url.path.strip("/") or url.query or url.fragment:
            raise SettingsError(KEY, allowed=ALLOWED)
        schemes.add(url.scheme)
        if url.username is not None and user is None and token is None:
            if url.password is None:
                token = unquote(url.username)
            else:
                user, password = unquote(url.username), unquote(url.password)
        shown_host = f"[{host}]" if ":" in host else host
        servers.append(f"{url.scheme}://{shown_host}:{port}")
    if len(schemes) > 1:
        raise SettingsError(KEY, allowed="either every server of the address is nats:// or every one is tls://")
    return NatsAddress(tuple(servers), schemes == {"tls"}, user, password, token)
