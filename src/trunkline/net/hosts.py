"""Under which names a port is served, so that no page reaches by DNS what its author cannot reach. Pure.

Rules:

- Whoever owns a name can let it lead to any address (DNS rebinding). A browser then takes what answers there for the
  page's own origin. Only the Host header shows it: it names the page's host.
- A port on loopback is for this machine. It serves addresses of loopback, localhost, and the names that the operator
  gave. A request that a trusted proxy forwarded is served under any name, for a page cannot add forwarding headers to a
  WebSocket handshake.
- What is open to a network by address, such as /metrics, needs more on any port: a page can add such headers to plain
  requests. There Host is an address, a name of the operator or of this machine, or one that nobody can register: a
  single label, as containers have, or one of a domain that is reserved for private use.
- A request without Host is HTTP/1.0, which no browser speaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trunkline.http1.heads import host_name
from trunkline.net.addresses import is_address, is_loopback

PRIVATE_DOMAINS: Final = (".localhost", ".local", ".internal", ".home.arpa")
"""RFC 6761, RFC 6762, ICANN's resolution of 29 July 2024, RFC 8375."""


class Hosts:
    """The names of one port.

    Args:
        setting: where an operator adds names, such as `server.hosts`.
        proxies: where an operator names trusted proxies.
        named: names, `*.example.org` for all below one, `*` for any.
        machine: the name of this machine.

    Attributes:
        loopback: whether the port is on loopback.
    """

    def __init__(self, setting: str, proxies: str, named: Iterable[str], machine: str = "") -> None:
        self.loopback = False
        self._refused = False
        self._served: str | None
        self._setting = setting
        self._proxies = proxies
        self._machine = machine.lower()
        self.rename(named)

    def rename(self, named: Iterable[str]) -> None:
        """Serve these names from now on, and no others."""
        self._served = None
        names = [name.lower().strip("[]").rstrip(".") for name in named if name]
        self._any = "*" in names
        self._names = frozenset(names)
        self._domains = (".localhost", *(name[1:] for name in names if name.startswith("*.")))

    def listens_on(self, addresses: Iterable[str]) -> None:
        """The port is open, on these addresses."""
        self.loopback = all(map(is_loopback, addresses))

    def refusal(self, host: str | None, proxied: bool) -> str:
        """Why a request with this Host is not served, empty when it is; `proxied`: a trusted proxy forwarded it."""
        # Nearly all requests name the same host: what was served last is served again without being read.
        if not self.loopback or proxied or host is None or host == self._served:
            return ""
        if self._is_own(host_name(host)):
            self._served = host
            return ""
        return not_served(host, self._setting, self._proxies)

    def network_refusal(self, host: str | None) -> str:
        """Why a request with this Host gets nothing that is open to a network, empty when it does."""
        name = "" if host is None else host_name(host)
        private = "." not in name or is_address(name) or name == self._machine or name.endswith(PRIVATE_DOMAINS)
        if private or self._is_own(name):
            return ""
        return (
            f"Host {host} opens this to no network: ask by address, send the admin token, or add it to {self._setting}"
        )

    def is_first(self) -> bool:
        """Whether this refusal is the first one, which gets a line in the log: browsers show no one the answer."""
        first, self._refused = not self._refused, True
        return first

    def _is_own(self, name: str) -> bool:
        return self._any or is_loopback(name) or name in self._names or name.endswith(self._domains)


def not_served(host: str, setting: str, proxies: str) -> str:
    """The refusal of a host on loopback; the settings are those that name hosts and trusted proxies."""
    return (
        f"Host {host} is not served: this port is on loopback, and a page under any name can lead a browser to it. If "
        f"the name is yours, add it to {setting}; if a proxy forwarded this, add its address, such as 127.0.0.1, to "
        f"{proxies}"
    )
