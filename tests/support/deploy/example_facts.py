"""Facts of a deploy as a real one leaves them: 4,812 clients moved from blue to green, and 50 witnesses."""

from __future__ import annotations

from trunkline.deploy.verdict.facts import ClientFacts, DeployFacts, RateFacts, Sample, StateSpan, WitnessFacts
from trunkline.protocol.deploys import DeployState

ASKED = 4_812
SPANS: tuple[tuple[DeployState, float, str], ...] = (
    ("planned", 0.4, "preflight holds"),
    ("starting", 6.0, "2 of 2 nodes are announced"),
    ("gating", 8.0, "ready three times"),
    ("smoking", 15.0, "all checks passed"),
    ("switching", 15.6, "2 of 2 balancers apply generation 7"),
    ("verifying", 46.0, "nothing went wrong for 30 s"),
    ("moving", 106.0, "nobody is left to be asked"),
    ("finishing", 108.0, "nobody is left"),
    ("holding", 138.0, "kept for 30 s"),
    ("retiring", 141.0, "the old colour is gone"),
)


def example_facts() -> DeployFacts:
    """A deploy that proved what it was to prove."""
    witnesses = WitnessFacts(
        count=50, published=2_360, expected=11_800, lost=0, duplicated=0, gaps=0, moved=50,
        away_ms={"p50": 180.0, "p99": 1_210.0, "max": 1_240.0},
    )  # fmt: skip
    clients = ClientFacts(
        at_switch=4_870, asked=ASKED, returned=4_809, recovered=9_618, gaps=0, forced=0, never_back=3,
        usual_departures=2.4, refused={"address_rate": 0}, away_s={"p50": 0.21, "p99": 1.4, "max": 2.2},
    )  # fmt: skip
    return DeployFacts(
        id="d-7f3a", from_colour="blue", to_colour="green", version="1.5.0", started_at="2026-11-30T07:15:00Z",
        lasted_s=141.0, ended="done", why="", witnesses=witnesses, clients=clients,
        rates=RateFacts(peak_per_s=388.0, accepts_per_s=1_540.0, accepts_from="measured", chosen_per_s=80.2),
        spans=_spans(), samples=tuple(_sample(second) for second in range(1, 142)), moving_s=60.0, waited_s=4.0,
        notes=("node blue-2 was resumed after 2 s without an answer",),
    )  # fmt: skip


def _spans() -> tuple[StateSpan, ...]:
    starts = (0.0, *(end for _, end, _ in SPANS))
    return tuple(StateSpan(state, start, end, why) for (state, end, why), start in zip(SPANS, starts, strict=False))


def _sample(second: int) -> Sample:
    state = next(state for state, end, _ in SPANS if second <= end)
    left = round(ASKED * min(1.0, max(0.0, (106 - second) / 60)))
    moving = 46 < second <= 106
    return Sample(
        at_s=float(second), state=state, clients={"blue": left + 58 * (second < 106), "green": ASKED - left},
        opened_per_s=80.0 + second % 7 * 12 if moving else 2.0, limit_per_s=1_540.0 if second > 15 else 0.0,
        refused_per_s=0.0, witnesses=50 - 3 * (moving and second % 9 == 0),
        away_p50_s=0.21 if second > 47 else 0.0, away_p99_s=1.1 + second / 400 if second > 47 else 0.0,
        lag_ms=3.0 + second % 5,
    )  # fmt: skip
