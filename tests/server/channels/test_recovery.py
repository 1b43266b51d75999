"""What a subscription request is granted of a channel, decided before anything is written."""

from __future__ import annotations

import pytest

from trunkline.bus.base import HistoryPage, Publication, Retention
from trunkline.protocol import wire
from trunkline.server.channels import recovery
from trunkline.server.channels.channel import Channel
from trunkline.server.channels.window import Window

NAME = "public.a"


def channel_at(last: int, *, epoch: str | None = "e", clear_to: int = 0) -> Channel:
    """A live channel whose subscribers stand at `last`."""
    channel = Channel(NAME, Retention(10, 60.0))
    channel.epoch, channel.last, channel.clear_to = epoch, last, clear_to
    return channel


def window_of(floor: int, top: int) -> Window:
    """The publications after `floor` up to `top`."""
    publications = [Publication(NAME, b"1", "e", offset, offset - 1, 0) for offset in range(floor + 1, top + 1)]
    return Window(HistoryPage("e", floor, top, publications), 100, 0.0)


def test_without_recovery_a_client_starts_where_the_channel_stands() -> None:
    """The ack names the channel's position; nothing is counted as a recovery."""
    verdict = recovery.decide(channel_at(7), None, None)
    assert verdict.position == wire.AckPosition("e", 7, False, 0)
    assert (verdict.outcome, verdict.missed) == (None, None)
    assert recovery.decide(channel_at(0, epoch=None), None, None).position == wire.AckPosition(None, None, False, 0)


@pytest.mark.parametrize(
    ("channel", "wanted", "window", "reason"),
    [
        (channel_at(0, epoch=None), wire.Position("e", 3), None, "no_history"),
        (channel_at(7), wire.Position("other", 3), window_of(0, 7), "epoch_changed"),
        (channel_at(7), wire.Position("e", 8), window_of(0, 7), "epoch_changed"),
        (channel_at(7), wire.Position("e", 3), None, "expired"),
        (channel_at(7), wire.Position("e", 3), window_of(4, 7), "expired"),
    ],
)
def test_a_refused_recovery_names_its_reason(
    channel: Channel, wanted: wire.Position, window: Window | None, reason: str
) -> None:
    """The client starts where the channel stands, and learns why."""
    verdict = recovery.decide(channel, wanted, window)
    last = channel.last if channel.epoch is not None else None
    assert verdict.position == wire.AckPosition(channel.epoch, last, False, 0, reason)  # type: ignore[arg-type]
    assert (verdict.outcome, verdict.missed) == (reason, None)


def test_a_granted_recovery_holds_what_was_missed() -> None:
    """Exactly the publications after the client's position, counted in the ack."""
    window = window_of(2, 7)
    verdict = recovery.decide(channel_at(7), wire.Position("e", 4), window)
    assert verdict.position == wire.AckPosition("e", 4, True, 3)
    assert verdict.outcome == "recovered"
    assert verdict.missed is not None
    assert [item.publication.offset for item in verdict.missed.items] == [5, 6, 7]
    assert verdict.missed.window is window


@pytest.mark.parametrize(("offset", "clear_to"), [(7, 0), (9, 9)])
def test_a_client_that_missed_nothing_goes_on_at_once(offset: int, clear_to: int) -> None:
    """At the channel's end, or beyond it where history is known to be empty, there is nothing to write."""
    verdict = recovery.decide(channel_at(7, clear_to=clear_to), wire.Position("e", offset), None)
    assert verdict.position == wire.AckPosition("e", offset, True, 0)
    assert (verdict.outcome, verdict.missed) == ("recovered", None)


def test_what_was_found_out_may_not_hold_any_more() -> None:
    """A window that was replaced, or a publication that came meanwhile, means to look again."""
    channel, wanted = channel_at(7), wire.Position("e", 4)
    channel.window = window_of(2, 7)
    assert recovery.settled(channel, wanted, channel.window)
    assert not recovery.settled(channel, wanted, window_of(2, 7))
    assert not recovery.settled(channel, wanted, None)
    assert recovery.settled(channel, wire.Position("e", 7), None)


@pytest.mark.parametrize(
    ("epoch", "after", "gap"),
    [
        ("e", 7, None),
        ("e", 4, wire.Gap(NAME, "e", 4, 8, "unavailable", 5)),
        ("old", 4, wire.Gap(NAME, "e", None, 8, "epoch_changed", 5)),
    ],
)
def test_the_gap_of_a_client_that_goes_on_live(epoch: str, after: int, gap: wire.Gap | None) -> None:
    """What lies between a client's position and the channel's, None when nothing does."""
    assert recovery.gap_to_live(channel_at(7), epoch, after, "unavailable", 5) == gap
