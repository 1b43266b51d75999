"""Holders of admin tokens, and whether one may use a route. Pure.

Rules:

- A header is compared with every token, each time to the end, by digests of equal length: the time an answer takes
  says neither which tokens there are nor how much of one was right.
- A scope counts by itself: who may operate may not therefore read. A token says in its settings all that it may do.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, NamedTuple

from trunkline.net.admin.routes import Route
from trunkline.protocol.control import Problem
from trunkline.settings.admin import Scope
from trunkline.settings.secret import Secret


class Holder(NamedTuple):
    """Who has a token.

    Attributes:
        name: for the log and for refusals.
        scopes: what the token may do.
        secret: the token.
    """

    name: str
    scopes: tuple[Scope, ...]
    secret: Secret


class Refusal(NamedTuple):
    """Why a request is not carried out: an HTTP status and its body."""

    status: int
    problem: Problem


UNKNOWN: Final = Problem("unauthorized", "the admin token is missing or wrong")
"""What a request without a token that counts is answered, with 401."""


class Holders:
    """The tokens that count now."""

    def __init__(self, holders: Sequence[Holder]) -> None:
        self._digests = [(_digest(holder.secret.reveal().encode()), holder) for holder in holders]

    def of(self, authorization: str | None) -> Holder | None:
        """Who sent an Authorization header, None for nobody known."""
        if authorization is None:
            return None
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(given.strip().encode("utf-8", "surrogateescape"))
        found = None
        for known, holder in self._digests:
            if hmac.compare_digest(digest, known):
                found = holder
        return found


def refusal(holder: Holder | None, route: Route) -> Refusal | None:
    """Why a holder may not use a route, None when it may."""
    if holder is None:
        return Refusal(401, UNKNOWN)
    if route.scope not in holder.scopes:
        has = " and ".join(holder.scopes)
        text = f"{route.method} {route.path} needs the scope {route.scope}; the token of {holder.name} has {has}"
        return Refusal(403, Problem("forbidden", text))
    return None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
