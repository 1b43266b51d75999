"""What is shown of a deploy's progress, as text. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from trunkline.deploy.parts import Progress
from trunkline.load.output.formatting import clock, count, counted, milliseconds, per_second, seconds, significant
from trunkline.protocol.deploys import DeployState

FORWARD: Final[tuple[DeployState, ...]] = (
    "planned", "starting", "gating", "smoking", "switching", "verifying", "moving", "finishing", "holding", "retiring",
    "done",
)  # fmt: skip

Place = Literal["past", "now", "ahead"]


def headline(progress: Progress) -> str:
    """Which deploy, and for how long it has run."""
    way = f"{progress.from_colour or 'nothing'} -> {progress.to_colour}"
    return f"deploy {progress.id}  {way}  {clock(progress.at_s)}"


def states(progress: Progress) -> tuple[tuple[DeployState, Place], ...]:
    """The states it was in, the present one, and those that are ahead when all goes well."""
    past = [span.state for span in progress.spans]
    # A process that takes over has the spans of all before it, and a state may have been entered twice.
    shown: list[tuple[DeployState, Place]] = [(state, "past") for state in dict.fromkeys(past)]
    shown = [each for each in shown if each[0] != progress.state]
    shown.append((progress.state, "now"))
    if progress.state in FORWARD:
        shown += [(state, "ahead") for state in FORWARD[FORWARD.index(progress.state) + 1 :]]
    return tuple(shown)


def state_line(progress: Progress) -> str:
    """The present state, for how long, and why."""
    text = f"{progress.state} for {seconds(progress.since_s)}"
    return f"{text}: {progress.why}" if progress.why else text


def move_line(progress: Progress) -> str:
    """How many clients are left of those that are moved, empty while nobody is."""
    if progress.to_move is None:
        return ""
    return (
        f"{count(progress.left)} of {counted(progress.to_move, 'client')} left, "
        f"asked at {per_second(progress.rate_per_s)}"
    )


def moved_share(progress: Progress) -> float:
    """Of the clients that are moved, the share that has left, 0 to 1."""
    if not progress.to_move:
        return 1.0 if progress.to_move == 0 else 0.0
    return min(max(1 - progress.left / progress.to_move, 0.0), 1.0)


def colours_line(progress: Progress) -> str:
    """Clients of both colours, and what the new one accepts."""
    if progress.sample is None:
        return ""
    sample = progress.sample
    order = [colour for colour in (progress.from_colour, progress.to_colour) if colour]
    parts = [f"{colour} {counted(sample.clients.get(colour, 0), 'client')}" for colour in order]
    limit = f" of {significant(sample.limit_per_s)}" if sample.limit_per_s else ""
    parts.append(f"opened {significant(sample.opened_per_s)}{limit}/s")
    parts.append(f"refused {significant(sample.refused_per_s)}/s")
    if sample.away_p99_s:
        away = (milliseconds(1000 * away_s) for away_s in (sample.away_p50_s, sample.away_p99_s))
        parts.append("away p50 {}, p99 {}".format(*away))
    parts.append(f"lag {milliseconds(sample.lag_ms)}")
    return "  ".join(parts)


def witness_line(progress: Progress) -> str:
    """What the witnesses see, empty while there are none."""
    seen = progress.witnesses
    if seen is None:
        return ""
    text = (
        f"{count(seen.connected)} of {count(seen.count)} connected  lost {count(seen.lost)}  "
        f"twice {count(seen.duplicated)}  gaps {count(seen.gaps)}  moved {count(seen.moved)}"
    )
    return f"{text}  {seen.why}" if seen.why else text


def harmed(progress: Progress) -> bool:
    """Whether a witness lost something, got it twice or was told of a gap."""
    seen = progress.witnesses
    return seen is not None and bool(seen.lost or seen.duplicated or seen.gaps)


def alerts_line(firing: Iterable[object]) -> str:
    """The alerts that fire, empty for none."""
    return ", ".join(str(alert) for alert in firing)
