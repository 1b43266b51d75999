"""How relay, steering and workers request a backend, and the answers. Pure.

A pick is a promise: it stays counted as a reservation at its backend until one of `opened`, `failed` or a report of the
backend settles it, or it expires.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from trunkline.settings.balancer import Policy


class Ask(msgspec.Struct, frozen=True):
    """What is known of a client that wants a backend.

    Attributes:
        key: its Sec-WebSocket-Key, which the backend sees too; empty for plain HTTP, which reserves nothing.
        affinity: the value that must stay together, None when the request has none (then least connections decides).
    """

    key: str
    pool: str = ""
    policy: Policy = "least_connections"
    affinity: str | None = None
    sticky: str | None = None
    address: str = ""
    tried: tuple[str, ...] = ()


class Pick(msgspec.Struct, frozen=True, tag="pick"):
    """A backend for a connection.

    Attributes:
        reason: why this one, a fixed label: the policy's name, `sticky`, `affinity_spill` (its key's node is full),
            `retry`, `only`, `last_resort` (all are out).
        cookie: value of the sticky cookie to set, None when none is to be set.
        server_name: the name that the backend's certificate must have, empty for the URL's host.
    """

    url: str
    reservation: int
    reason: str
    cookie: str | None = None
    group: str = ""
    server_name: str = ""


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """No backend for a connection.

    Attributes:
        reason: a fixed label: `full`, `no_backend`, `all_down`, `all_tried`.
        retry_after_s: seconds after which to try again, with jitter.
    """

    status: int
    reason: str
    text: str
    retry_after_s: float


class Placer(Protocol):
    """Gives out backends and gets what became of them.

    `place` answers at once in the process that holds the authoritative state, and later in a worker.
    """

    def place(self, ask: Ask) -> Pick | Refusal | Awaitable[Pick | Refusal]:
        """Choose a backend and reserve a place on it."""

    def opened(self, pick: Pick) -> None:
        """The backend has answered 101."""

    def failed(self, pick: Pick, why: str) -> None:
        """No connection came of it through the backend's fault.

        `why` is one of `dial`, `dial_timeout`, `tls`, `handshake_timeout`, `bad_answer`, `status_5xx`, `closed`; `busy`
        (503: it sheds load), `retry` (a suspicion: the client asks again) and `alike` (other backends failed the same
        request too) prove no fault.
        """

    def dropped(self, pick: Pick) -> None:
        """No connection came of it, and the backend is not to blame (the client left, or was refused with a 4xx)."""

    def closed(self, pick: Pick) -> None:
        """An opened connection has ended."""
