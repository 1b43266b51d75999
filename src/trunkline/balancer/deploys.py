"""The fleet's deploy, as a balancer sees it in the store: its state, and how old its lease is. Pure.

Rules:

- The lease is renewed by writing the entry again. Its age is the time since the revision changed, by this process's
  own monotonic clock; a balancer that has just started begins at 0.
- A deploy that is over needs no lease, and one that is stuck waits for a person: neither has an age.
- An entry that cannot be read, as a later release may write it, counts as no deploy.
"""

from __future__ import annotations

import contextlib

import msgspec

from trunkline.protocol.deploys import OVER, DeployStatus


class DeployWatch:
    """What is known of the present or last deploy.

    Attributes:
        status: as it was stored last, None without one.
    """

    __slots__ = ("_changed_at", "_revision", "status")

    def __init__(self) -> None:
        self.status: DeployStatus | None = None
        self._revision = 0
        self._changed_at = 0.0

    def take(self, value: bytes | None, revision: int, now: float) -> None:
        """Take what the store holds under `DEPLOY_KEY` at the monotonic time `now`; None and 0 for nothing."""
        if revision != self._revision:
            self._revision, self._changed_at = revision, now
        self.status = None
        if value is not None:
            with contextlib.suppress(msgspec.DecodeError):
                self.status = msgspec.json.decode(value, type=DeployStatus)

    @property
    def under_way(self) -> bool:
        """Whether clients may be moved by a deploy: one that is neither over nor stuck, driven or not."""
        return self.status is not None and self.status.state not in OVER and self.status.state != "stuck"

    def lease_age_s(self, now: float) -> float | None:
        """Seconds since the lease was renewed; None when no deploy needs one."""
        return max(0.0, now - self._changed_at) if self.under_way else None
