"""Whose connection it is, as the handshake showed it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

Claims: TypeAlias = Mapping[str, object]
"""The claims of a token: JSON values by their names."""


class ClientIdentity(msgspec.Struct, frozen=True, gc=False):
    """What is known of a client from its handshake; `Client` shows it to applications.

    Attributes:
        target: path and query as sent, without a token.
        params: parameters of the path.
    """

    id: str
    session: str
    resumed: bool
    target: str
    params: Mapping[str, str]
    claims: Claims
    address: str

    @property
    def subject(self) -> str | None:
        """The token's `sub`."""
        subject = self.claims.get("sub")
        return subject if isinstance(subject, str) else None

    @property
    def path(self) -> str:
        """The path of the handshake, without its query."""
        return self.target.partition("?")[0]
