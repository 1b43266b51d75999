"""Messages between the coordinator and its workers, whether over a pipe or over NATS. Pure.

    coordinator   Job ->       Begin ->  (NewToken ->*)  (Stop ->)  Settle ->   SendOffsets ->
    worker             Ready ->         Beat ->*   Sent ->     Beat, Done ->       Offsets ->*   (ends)

Rules: one struct a message, `type` first, as MessagePack; a worker that cannot go on sends `Failed` and ends. No
message is longer than `MAX_BYTES`.
"""

from __future__ import annotations

import msgspec

from trunkline.load.model.plan import Scenario, Target
from trunkline.load.model.tally import Beat

MAX_BYTES = 900_000  # below the longest message that NATS takes by default
MAX_OFFSETS = 50_000  # offsets in one `Offsets`
MAX_HOLES = 5_000  # holes that one worker sends; the rest is counted in `Done.more_holes`
LONGEST_SETTLE = 12
"""A generator goes on settling while something still comes, up to so many times `settle_s`."""


class Position(msgspec.Struct, frozen=True):
    """The last publication of a channel."""

    epoch: str
    offset: int
    # When its acknowledgement came, on the coordinator's clock; decides between workers that name different epochs.
    at: float = 0.0


ChannelEpoch = tuple[str, str]  # a channel and one of its epochs: offsets can be compared within both alone


class Hole(msgspec.Struct, frozen=True):
    """Publications with after < offset <= upto that neither came nor were announced by a gap; that at `upto` exists."""

    channel: str
    epoch: str
    after: int
    upto: int
    connection: int

    @property
    def of(self) -> ChannelEpoch:
        """Where its offsets count."""
        return (self.channel, self.epoch)


class Job(msgspec.Struct, tag="job", frozen=True):
    """What to do."""

    run: str
    target: Target
    scenario: Scenario  # its protocol is resolved and is not `auto`
    worker: int
    workers: int
    seed: int
    clock_offset_s: float = 0.0  # the coordinator's clock minus this machine's
    settle_s: float = 5.0  # how long to wait at the end for what is still to come
    flow_source: str = ""  # for protocol python: the text of the file; never sent to another machine


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """Start at this moment of the coordinator's clock."""

    at: float


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """End the stages now, and go on to `Sent`."""


class NewToken(msgspec.Struct, tag="new_token", frozen=True):
    """The token of the target has been renewed; it may come at any time after `Ready`."""

    token: str


class Settle(msgspec.Struct, tag="settle", frozen=True):
    """The last position of each channel, over all workers: wait for these, then close the connections.

    Long ones travel in pieces, all but the last with `more`; a generator gets one whole.
    """

    ends: dict[str, Position]
    more: bool = False


class SendOffsets(msgspec.Struct, tag="tell", frozen=True):
    """Send the offsets published in these channels; then end.

    Long ones travel in pieces, all but the last with `more`.
    """

    channels: tuple[str, ...]
    more: bool = False


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The job was understood and can be done, with at most `max_open` connections."""

    worker: int
    max_open: int


class Sent(msgspec.Struct, tag="sent", frozen=True):
    """Nothing more will be sent; where each channel ended, as far as this worker published.

    Long ones travel in pieces, all but the last with `more`; a generator makes one whole.
    """

    worker: int
    ends: dict[str, Position]
    more: bool = False


class Done(msgspec.Struct, tag="done", frozen=True):
    """All connections are closed, and everything is in the beats before this."""

    worker: int
    holes: tuple[Hole, ...] = ()
    more_holes: int = 0


class Offsets(msgspec.Struct, tag="offsets", frozen=True):
    """Offsets of acknowledged publications, growing; the last message of an answer says `last`."""

    worker: int
    channel: str
    epoch: str
    offsets: tuple[int, ...]
    last: bool = False


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The worker cannot go on."""

    worker: int
    what: str
    next_step: str


ToWorker = Job | Begin | Stop | NewToken | Settle | SendOffsets
FromWorker = Ready | Beat | Sent | Done | Offsets | Failed
