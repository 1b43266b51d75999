"""How fast a node asks its clients to move when several nodes drain at the same time. Pure.

Clients that all old nodes ask at once come to the same few new ones. So those that drain share one rate:

- It is `SHARE` of the handshakes per second that the nodes which are up say they can take, at least one. Of nodes of
  another version when there are any: that is where balancers send those who move.
- A node's part of it is its part of all clients on draining nodes, so that all of them end together.
- No order is needed for this: while it drains a node hears the reports that balancers hear.
- A plan is only slowed down, never hurried, and not so much that clients would be left to be cut at the deadline.
- While no node is known that takes clients, the plan is kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from trunkline.protocol.control import NodeReport

SHARE: Final = 0.5
"""As in the waves of a deploy: new clients come too, and those that were asked come in gusts."""

LEAST_PER_S: Final = 1.0
HEARD_S: Final = 6.0
"""Nodes report every two seconds; one that was not heard for so long counts no more."""

MOST_PEERS: Final = 10_000


class _Peer(NamedTuple):
    report: NodeReport
    heard_at: float


class FleetRate:
    """What a node of `version` that drains has heard of the others; `run` is its own run, whose reports it ignores."""

    def __init__(self, run: str, version: str) -> None:
        self._run = run
        self._version = version
        self._peers: dict[str, _Peer] = {}

    def hear(self, said: NodeReport, now: float) -> None:
        """A node reports, at `now` in seconds."""
        if said.report.run == self._run:
            return
        if said.leaving:
            self._peers.pop(said.url, None)
        elif said.url in self._peers or len(self._peers) < MOST_PEERS:
            self._peers[said.url] = _Peer(said, now)

    def per_s(self, clients: int, now: float) -> float | None:
        """Clients per second that this node, with so many of them, may ask; None for no limit."""
        heard = [peer.report.report for peer in self._peers.values() if now - peer.heard_at <= HEARD_S]
        up = [report for report in heard if report.state == "up" and report.accept_per_s is not None]
        other = [report for report in up if self._version and report.version and report.version != self._version]
        if not up:
            return None
        accepted = sum(report.accept_per_s or 0.0 for report in other or up)
        draining = sum(report.agentsConnections for report in heard if report.state == "draining")
        return max(SHARE * accepted, LEAST_PER_S) * max(clients, 1) / (max(clients, 1) + draining)


class Progress:
    """The time of a plan, which may pass more slowly than time does.

    Args:
        began: when the plan begins, seconds.
        over_s: its length.
        count: clients to be asked.
        ends_by: when it has to be over, None when nothing is cut.
    """

    def __init__(self, began: float, over_s: float, count: int, ends_by: float | None = None) -> None:
        self.speed = 1.0
        self._at = began
        self._over_s = over_s
        self._planned_per_s = count / over_s if over_s else 0.0
        self._ends_by = ends_by
        self._elapsed_s = 0.0

    def elapsed_s(self, now: float) -> float:
        """Seconds of the plan that are over at `now`."""
        if now > self._at:
            self._elapsed_s += (now - self._at) * self.speed
            self._at = now
        return self._elapsed_s

    def allow(self, per_s: float | None, now: float) -> None:
        """From `now` on ask at most so many clients per second; None for no limit."""
        left_s = self._over_s - self.elapsed_s(now)
        speed = 1.0 if per_s is None else per_s / max(self._planned_per_s, 1e-9)
        if self._ends_by is not None:
            time_left_s = self._ends_by - now
            speed = max(speed, left_s / time_left_s if time_left_s > 0 else 1.0)
        self.speed = min(speed, 1.0)

    def wait_s(self, at_s: float) -> float:
        """Seconds until the plan's time is `at_s`, as it passes now."""
        return max(at_s - self._elapsed_s, 0.0) / max(self.speed, 1e-9)
