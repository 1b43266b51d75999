"""A session: one simulated client, which survives its connections; and what all sessions of a worker share. Pure.

Rules:

- A session knows how to talk (see `protocols/`), the link below it knows frames, and the generator when to connect,
  cut, reconnect and what is due.
- Times are seconds of the coordinator's clock: `shared.now()`. On one machine that is the monotonic clock itself.
- `message` is the hot path: no await, no task, no timer there.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from typing import Protocol

from trunkline.load.client.reconnect import seconds_away
from trunkline.load.model.messages import Hole, Job, Position
from trunkline.load.model.plan import Scenario
from trunkline.load.model.tally import Tally


class Link(Protocol):
    """The open connection of a session."""

    def send(self, payload: bytes, *, binary: bool = False) -> None:
        """Send one message; what the socket does not take now is buffered."""

    def close(self) -> None:
        """End it with a closing handshake and 1000."""

    def abort(self) -> None:
        """End it without a close frame, as a failing network would."""


class Published:
    """Acknowledged publications of one epoch of a channel: their offsets as they came, and when the last one did."""

    __slots__ = ("at", "offsets")

    def __init__(self) -> None:
        self.at = 0.0
        self.offsets = array("q")


class Shared:
    """What the sessions of one worker have in common.

    `clock` is this machine's monotonic time in seconds; `on_ready` is called when a session may be given messages to
    send, each time it connects.
    """

    def __init__(
        self, job: Job, tally: Tally, clock: Callable[[], float], rng: random.Random,
        on_ready: Callable[[Session], None] = lambda session: None,
    ) -> None:  # fmt: skip
        self.job = job
        self.scenario: Scenario = job.scenario
        self.tally = tally
        self.rng = rng
        self.token = job.target.token  # the newest one
        self.expiring: set[Session] = set()  # those whose token expires, and for which there is no newer one yet
        self.started = 0.0  # when the run began, on the coordinator's clock; set by the generator
        self.on_ready = on_ready
        self.published: dict[str, dict[str, Published]] = {}  # of this worker, by channel and epoch
        self._clock = clock
        self._offset = job.clock_offset_s
        self.now: Callable[[], float] = clock if not self._offset else self._shifted

    def acknowledged(self, channel: str, epoch: str, offset: int, at: float) -> None:
        """Remember a publication whose position came back at the moment `at`."""
        epochs = self.published.get(channel)
        if epochs is None:
            epochs = self.published[channel] = {}
        published = epochs.get(epoch)
        if published is None:
            published = epochs[epoch] = Published()
        published.offsets.append(offset)
        published.at = at

    def _shifted(self) -> float:
        return self._clock() + self._offset

    def local(self, moment: float) -> float:
        """A moment of the coordinator's clock on this machine's."""
        return moment - self._offset

    def at_s(self) -> float:
        """Seconds since the run began, to the millisecond, for findings."""
        return round(self.now() - self.started, 3)


class Session:
    """One client, numbered over all workers of the run; subclasses define how it talks."""

    __slots__ = (
        "abusive", "attempt", "link", "lost_at", "number", "opened_at", "place", "ready", "session_id", "shared",
        "slow", "token",
    )  # fmt: skip

    def __init__(self, number: int, shared: Shared) -> None:
        self.number = number
        self.shared = shared
        self.link: Link | None = None  # its connection while that is open
        self.ready = False  # whether it may be given messages to send
        self.abusive = False
        self.slow = False
        self.session_id = ""  # given by the server, and brought along when it comes back
        self.token = ""  # of its connection, or the newest one that it sent there
        self.attempt = 0  # connections in a row that failed or did not stay
        self.place = -1  # where the generator keeps it among those that are ready; -1: nowhere
        self.opened_at = 0.0  # when its present connection's 101 came
        # When it lost a connection that should have stayed, or was to come back; None when it has not.
        self.lost_at: float | None = None

    def opened(self) -> None:
        """The 101 has come; `link` is set. Calls `get_ready` when nothing more is to be awaited."""
        self.get_ready()

    def get_ready(self) -> None:
        """From now on messages may be sent; counts the reconnect, if it was one."""
        self.ready = True
        if self.lost_at is not None:
            self.shared.tally.reconnect.record(self.shared.now() - self.lost_at)
            self.lost_at = None
        self.shared.on_ready(self)

    def message(self, payload: bytes, binary: bool) -> None:
        """A message has come; it is counted in `received` already."""
        raise NotImplementedError

    def due(self, intended: float) -> None:
        """A message of the schedule is to be sent, meant for the moment `intended`; only called when `ready`."""
        raise NotImplementedError

    def ended(self, code: int, reason: str) -> None:
        """The connection has ended, whichever side ended it, and `link` is None; counts what is abandoned."""
        self.ready = False
        self.shared.expiring.discard(self)

    def comes_back_after(self, code: int, attempt: int) -> float | None:
        """Seconds until it reconnects after the other side ended its connection (see `seconds_away`); None: never."""
        return seconds_away(code, None, attempt, self.shared.rng)

    def refresh(self) -> None:
        """There is a newer token; the server has said that this connection's expires."""

    @property
    def said_goodbye(self) -> bool:
        """Whether the server announced the end of the last connection and asked to come back."""
        return False

    def settled(self, ends: dict[str, Position]) -> bool:
        """Whether everything that is still to come has come; `ends` holds the last position of each channel."""
        return True

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """Count what is missing for good; returns the holes, whose publications the coordinator counts."""
        return []

    def never_answered(self, count: int) -> None:
        """Messages without an answer after the last wait, on a connection that stayed: they are lost."""
        if count:
            tally = self.shared.tally
            tally.totals.unanswered += count
            tally.totals.lost += count
            tally.because(f"no answer within {self.shared.job.settle_s:g} s after the last message of the run", count)

    @property
    def forgotten(self) -> int:
        """Holes that `finish` cannot return any more, because there were too many."""
        return 0
