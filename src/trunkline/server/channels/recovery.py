"""What a subscription request gets of one channel: where it starts, and whether what was missed follows. Pure.

`recovered` is a promise that everything missed follows, in order, before any live publication of the channel. So it is
decided before the acknowledgement is written, by what the node holds at that moment.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from trunkline.protocol import wire
from trunkline.server.channels.channel import Channel
from trunkline.server.channels.publications import Outgoing
from trunkline.server.channels.window import Window

Outcome: TypeAlias = Literal["recovered", wire.RecoverReason]


class Missed(NamedTuple):
    """What a client that was at `seen` has to get before live publications, and the window that it is from."""

    seen: wire.Position
    items: list[Outgoing]
    window: Window


class Verdict(NamedTuple):
    """What is granted of one channel; `position` goes into the acknowledgement.

    Attributes:
        outcome: how the recovery ended, None when none was requested.
        missed: None when the client can go on live at once.
    """

    channel: Channel
    position: wire.AckPosition
    outcome: Outcome | None = None
    missed: Missed | None = None


def decide(channel: Channel, wanted: wire.Position | None, window: Window | None) -> Verdict:
    """Decide what a client gets of a live channel as it stands now.

    `wanted` is the last position that it saw, None when it recovers nothing; `window` is None when it was not read.
    """
    last = None if channel.epoch is None else channel.last
    if wanted is None:
        return Verdict(channel, wire.AckPosition(channel.epoch, last, False, 0))
    reason = _refusal(channel, wanted, window)
    if reason is not None:
        return Verdict(channel, wire.AckPosition(channel.epoch, last, False, 0, reason), reason)
    missed: Missed | None = None
    if window is not None and behind(channel, wanted) and (items := window.since(wanted.offset)):
        missed = Missed(wanted, items, window)
    count = len(missed.items) if missed is not None else 0
    return Verdict(channel, wire.AckPosition(channel.epoch, wanted.offset, True, count), "recovered", missed)


def _refusal(channel: Channel, wanted: wire.Position, window: Window | None) -> wire.RecoverReason | None:
    if channel.epoch is None:
        return "no_history"
    if wanted.epoch != channel.epoch or wanted.offset > channel.top:
        return "epoch_changed"
    if wanted.offset < channel.last and (window is None or not window.covers(wanted.offset)):
        return "expired"
    return None


def behind(channel: Channel, wanted: wire.Position | None) -> bool:
    """Whether there is anything between a client's position and where the channel stands."""
    return wanted is not None and wanted.epoch == channel.epoch and wanted.offset < channel.last


def settled(channel: Channel, wanted: wire.Position | None, window: Window | None) -> bool:
    """Whether what was found out about a channel while others were awaited still holds."""
    return not behind(channel, wanted) if window is None else channel.window is window


def gap_to_live(channel: Channel, epoch: str, after: int, reason: str, wall_ms: int) -> wire.Gap | None:
    """What a client at `after` of `epoch` will not get when it goes on where the channel stands, None: nothing."""
    if channel.epoch != epoch:
        return wire.Gap(channel.name, channel.epoch, None, channel.last + 1, "epoch_changed", wall_ms)
    if after < channel.last:
        return wire.Gap(channel.name, epoch, after, channel.last + 1, reason, wall_ms)
    return None
