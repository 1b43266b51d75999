"""A connected client's fresh token: checked like that of a handshake, for the same client, and put to use.

Rules:

- A fresh token keeps the identity. One of another subject or issuer is refused.
- A token that is refused ends the connection with 4001: that is what a handshake with it would get too. One that only
  came too late, too early, or before its key, is a temporary error, and the token in use goes on.
- What depends on claims is decided again: subscriptions that the channel rules allowed, and allow no more, end. What
  the application subscribed without a rule, it ends itself.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Final, Protocol, TypeAlias

import msgspec

from trunkline.errors import MessageError, Refused
from trunkline.net.limits import Bucket
from trunkline.protocol import close_codes, wire
from trunkline.server.channels.requests import Requests
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.identity import Identity, TokenRefused
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.states import OPEN
from trunkline.server.connections.token_life import TokenLife

Work: TypeAlias = Coroutine[object, object, None]

REFRESH_BURST: Final = 10.0
REFRESH_PER_S: Final = 0.5
"""Fresh tokens that a client may send at once and a second: checking a signature costs more than most messages."""

RETRY_S: Final = 1.0


class TokenCheck(Protocol):
    """What checks tokens."""

    def verify_now(self, token: str) -> Identity | None:
        """Check a token with the keys at hand; None: keys must be fetched first. Raises Refused."""

    async def verify(self, token: str) -> Identity:
        """Check a token, fetching keys if that may help; raises Refused."""


class Refreshing:
    """Serves `refresh`; without a `check` no connection has a token."""

    def __init__(self, check: TokenCheck | None, requests: Requests, runtime: Runtime) -> None:
        self._check = check
        self._requests = requests
        self._runtime = runtime

    def reload(self, check: TokenCheck | None) -> None:
        """Check fresh tokens by this from now on."""
        self._check = check

    def new_bucket(self) -> Bucket:
        """What limits the refreshes of one client."""
        return Bucket(REFRESH_BURST, REFRESH_PER_S, self._runtime.clock.now)

    def handle(self, connection: Connection, request: wire.Refresh, bucket: Bucket) -> Work | None:
        """Serve a request at once, or return the work that has to be awaited. Raises MessageError."""
        check = self._check
        if check is None or not connection.identity.claims:
            raise MessageError(wire.FORBIDDEN, "this connection was opened without a token; reconnect with one")
        wait_s = bucket.take(self._runtime.clock.now)
        if wait_s:
            raise MessageError(
                wire.RATE_LIMIT_EXCEEDED,
                f"over the limit of {REFRESH_BURST:g} fresh tokens at once and {REFRESH_PER_S:g} a second",
                temporary=True,
                retry_after_ms=int(wait_s * 1000) + 1,
            )
        try:
            identity = check.verify_now(request.token)
        except Refused as refused:
            self._refuse(connection, refused)
            return None
        if identity is None:
            return self._verify(connection, request, check)
        self._put_to_use(connection, request, identity)
        return None

    async def _verify(self, connection: Connection, request: wire.Refresh, check: TokenCheck) -> None:
        try:
            identity = await check.verify(request.token)
        except Refused as refused:
            self._refuse(connection, refused)
        else:
            self._put_to_use(connection, request, identity)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        if isinstance(refused, TokenRefused) and not refused.passing:
            connection.end(close_codes.UNAUTHORIZED.code, refused.reason)
            return
        raise MessageError(
            wire.UNAUTHORIZED if isinstance(refused, TokenRefused) else wire.UNAVAILABLE,
            f"{refused.reason}; the token in use holds until it expires",
            temporary=True,
            retry_after_ms=int((refused.retry_after_s or RETRY_S) * 1000),
        ) from None

    def _put_to_use(self, connection: Connection, request: wire.Refresh, identity: Identity) -> None:
        if connection.state != OPEN:
            return
        before = connection.identity
        if not identity.continues(before.claims):
            connection.end(close_codes.UNAUTHORIZED.code, "the fresh token is not of this client")
            return
        clock = self._runtime.clock
        life = None if identity.lasts_s is None else TokenLife(clock.now, identity.lasts_s)
        connection.renew(msgspec.structs.replace(before, claims=identity.claims), life)
        ends_ms = None if identity.expires_at is None else min(int(identity.expires_at * 1000), wire.MAX_OFFSET)
        connection.send_message(wire.RefreshAck(request.id, ends_ms, clock.wall_ms))
        self._requests.check_again(connection, before.claims)
