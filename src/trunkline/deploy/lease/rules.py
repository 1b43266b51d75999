"""Who may drive the fleet's deploy: decisions over its stored status and its revision. Pure.

Rules:

- The lease is held by whoever wrote the last revision, for as long as it writes again in time. Nobody compares clocks:
  an observer counts from the moment at which it saw a revision, a holder from before it sent one. So a holder always
  ends before any observer takes its lease for expired.
- A holder that could not renew for `HOLDS_S` gives no more orders until a write of its own lands: somebody else may
  drive by now. It has lost the lease only when it finds the revision of another one.
- A new deploy begins when there is none or the last one is over. One that is not over is resumed instead: at once when
  its lease was given up, else when it has expired.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from trunkline.protocol.deploys import EXPIRED_S, OVER, RENEW_S, DeployStatus

HOLDS_S: Final = EXPIRED_S - RENEW_S / 2
"""Less than `EXPIRED_S`, so that orders that were sent last have arrived before anybody else begins."""

Take = Literal["begin", "resume"]
Answer = Literal["take", "wait", "none", "over", "another", "held"]


class LeaseTimes(msgspec.Struct, frozen=True):
    """The times of the lease, seconds; tests use shorter ones."""

    renew_s: float = RENEW_S
    holds_s: float = HOLDS_S
    expired_s: float = EXPIRED_S


class Observed:
    """What an observer has seen of the lease; `at` is always its own monotonic time."""

    __slots__ = ("_revision", "_since")

    def __init__(self) -> None:
        self._revision = 0
        self._since = 0.0

    def saw(self, revision: int, at: float) -> bool:
        """It has this revision now; returns whether that is another one than before."""
        changed = revision != self._revision
        if changed:
            self._revision, self._since = revision, at
        return changed

    def age_s(self, at: float) -> float:
        """Seconds for which the revision has not changed, as far as this observer knows."""
        return at - self._since


def may_take(take: Take, status: DeployStatus | None, *, changed: bool, age_s: float, expired_s: float) -> Answer:
    """Whether to take the lease.

    | | no deploy | over | given up | expired | renewed meanwhile | not known yet |
    |---|---|---|---|---|---|---|
    | begin | take | take | another | another | another | another |
    | resume | none | over | take | take | held | wait |

    Args:
        take: to begin another deploy, or to go on with the one there is.
        status: what is stored.
        changed: whether its revision has changed since this observer saw it first.
        age_s: seconds since when it has not.
        expired_s: after so many it has expired.
    """
    if status is None:
        return "take" if take == "begin" else "none"
    if status.state in OVER:
        return "take" if take == "begin" else "over"
    if take == "begin":
        return "another"
    if not status.holder or (not changed and age_s >= expired_s):
        return "take"
    return "held" if changed else "wait"


class Held:
    """What a holder knows of its own lease; `at` is always its own monotonic time.

    Attributes:
        revision: of its last write that is known to have landed.
    """

    __slots__ = ("_holds_s", "_renewed_at", "revision")

    def __init__(self, revision: int, sent_at: float, holds_s: float) -> None:
        self.revision = revision
        self._renewed_at = sent_at
        self._holds_s = holds_s

    def renewed(self, revision: int, sent_at: float) -> None:
        """A write that was sent at this time has landed."""
        self.revision = revision
        self._renewed_at = max(self._renewed_at, sent_at)

    def sure(self, at: float) -> bool:
        """Whether nobody else can have taken it."""
        return at - self._renewed_at < self._holds_s
