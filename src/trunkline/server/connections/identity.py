"""Whose connection it is, as the handshake and the newest token showed it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from trunkline.errors import Refused

Claims: TypeAlias = Mapping[str, object]
"""The claims of a token: JSON values by their names."""


class Identity(NamedTuple):
    """What a genuine token holds.

    Attributes:
        expires_at: its `exp`, in seconds since 1970, None for never.
        lasts_s: seconds that it holds from the moment it was checked, None for ever.
    """

    subject: str | None
    claims: Claims
    expires_at: float | None
    lasts_s: float | None

    def continues(self, claims: Claims) -> bool:
        """Whether this is another token of the one that `claims` are of: the same subject of the same issuer."""
        return all(self.claims.get(name) == claims.get(name) for name in ("iss", "sub"))


class TokenRefused(Refused):
    """A token is not accepted (401).

    Attributes:
        passing: whether a later token of the same client may well be: this one has expired, is not valid yet, or names
            a key that is not known yet.
    """

    def __init__(self, reason: str, *, passing: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(401, reason, retry_after_s=retry_after_s, label="unauthorized")
        self.passing = passing


class ClientIdentity(msgspec.Struct, frozen=True, gc=False):
    """What is known of a client; `Client` shows it to applications.

    Attributes:
        target: path and query as sent, without a token.
        params: parameters of the path.
        claims: those of the token in use.
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
