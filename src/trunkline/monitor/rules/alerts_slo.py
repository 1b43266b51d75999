"""Burn rates of the two objectives: handshakes succeed, publications are delivered in time. Pure.

An objective of 99.9 % allows one failure in a thousand; that is its budget. A burn rate of 1 spends it in exactly the
30 days it is for. Fast, steady and slow burns are told apart, so that a page means that there is something to do now:

    burn    long and short window    budget spent when it fires    then
    14.4    1h, 5m                   2 % within an hour            somebody is woken
    6       6h, 30m                  5 % within six hours          somebody is woken
    1       3d, 6h                   10 % within three days        somebody looks today

Rules: both windows must burn: the long one says that it matters, the short one that it still goes on. A share of very
few is no share: the long window must hold `FEWEST` bad events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from trunkline.monitor.rules import recording
from trunkline.monitor.rules.rule import Alert, Case, Group, Severity
from trunkline.monitor.rules.samples import lasting, node, of_balancer, of_node
from trunkline.settings.monitor import MonitorSettings

FEWEST: Final = 10
"""Bad events within the long window below which nobody is called."""

MOST: Final = 0.95
"""A loose objective times 14.4 would be more than everything; from this share on it burns fast, whatever it allows."""

_SECONDS: Final = {"1h": 3600, "6h": 21_600, "3d": 259_200}


class _Burn(NamedTuple):
    speed: str
    factor: float
    long: str
    short: str
    severity: Severity
    lasts: str
    too_early: str


_BURNS: Final = (
    _Burn("Fast", 14.4, "1h", "5m", "critical", "2m", "3m"),
    _Burn("Steady", 6.0, "6h", "30m", "critical", "5m", "5m"),
    _Burn("Slow", 1.0, "3d", "6h", "warning", "30m", "30m"),
)


_EACH_STEP: Final = 10_000
"""Events from one sample of a case to the next."""


class _Objective(NamedTuple):
    name: str
    target: float
    ratio: str
    bad: str
    failed: str
    description: str
    all_bad: tuple[dict[str, str], ...]
    well: tuple[dict[str, str], ...]
    few: dict[str, str]
    flow: Callable[[str, str], dict[str, str]]


def _burn(of: _Objective, burn: _Burn) -> Alert:
    budget = 1 - of.target
    share = f"{min(burn.factor * budget, MOST):.6g}"
    told = f"of {of.failed} within {burn.long}; the objective allows {100 * budget:.4g} %"
    # The recordings are the same for all speeds: one of them shows every way to be bad and to be well.
    ways = None if burn.speed == "Fast" else 1
    interval, at, over_at = ("8m", "20h", "8h") if burn.long == "3d" else ("2m", "70m", "60m")
    # The newest steps are bad enough for the short window, and too few for the long one.
    steps, newest = {"1h": (33, 2), "6h": (23, 12), "3d": (128, 22)}[burn.long]
    bad = round(min((2 if burn.long == "6h" else 3) * burn.factor * budget, 1) * _EACH_STEP)
    begins = of.flow(*_counted((steps, 0), (newest, bad)))
    # The first five steps were all bad; from then on it is half of what the budget allows.
    over = of.flow(*_counted((5, _EACH_STEP), (60, round(0.5 * budget * _EACH_STEP))))
    return Alert(
        name=f"Trunkline{of.name}Budget{burn.speed}Burn",
        expr=f"{of.ratio}{burn.long} > {share} and {of.ratio}{burn.short} > {share} "
        f"and {_SECONDS[burn.long]} * {of.bad}{burn.long} >= {FEWEST}",
        severity=burn.severity,
        lasts=burn.lasts,
        summary=f"{{{{ $value | humanizePercentage }}}} {told}",
        description=of.description,
        dashboard="trunkline-fleet",
        labels={"scope": "fleet"},
        cases=(
            *lasting(burn.too_early, Case(of.all_bad[0], "70m", {}, f"100% {told}", "2m")),
            *(Case(series, "70m", {}, f"100% {told}", "2m") for series in of.all_bad[1:ways]),
            *(Case(series, "70m", interval="2m") for series in of.well[:ways]),
            Case(of.few, {"1h": "64m", "6h": "80m", "3d": "110m"}[burn.long], interval="2m"),
            Case(begins, at, interval=interval),
            Case(over, over_at, interval=interval),
        ),
    )


def _counted(*phases: tuple[int, int]) -> tuple[str, str]:
    """Counters of good and of bad events, from phases of so many steps with so many bad events each."""
    good, bad, texts = 0, 0, (["0"], ["0"])
    for steps, each in phases:
        texts[0].append(f"{good + _EACH_STEP - each}+{_EACH_STEP - each}x{steps - 1}")
        texts[1].append(f"{bad + each}+{each}x{steps - 1}")
        good, bad = good + steps * (_EACH_STEP - each), bad + steps * each
    return " ".join(texts[0]), " ".join(texts[1])


def _handshakes(settings: MonitorSettings) -> _Objective:
    relay = of_balancer("ws_balancer_build_info", "1x45", version="1", mode="relay")
    steer = of_balancer("ws_balancer_build_info", "1x45", version="1", mode="steer")
    return _Objective(
        "Handshake",
        settings.slo_handshake,
        "fleet:ws_handshake_faults:ratio_rate",
        "fleet:ws_handshake_faults:rate",
        "handshakes failed",
        "Clients cannot connect, and it is not their fault: nodes full, behind or broken, or no backend is up.",
        (
            node(ws_connections_total="7x45") | of_node("ws_connections_failed_total", "0+60x45", reason="internal"),
            relay
            | of_balancer("ws_balancer_handshakes_total", "7x45")
            | of_balancer("ws_balancer_refusals_total", "0+60x45", reason="all_down"),
            steer
            | node(ws_connections_total="7x45")
            | of_balancer("ws_balancer_handshakes_total", "0x45")
            | of_balancer("ws_balancer_refusals_total", "0+60x45", reason="no_backend"),
        ),
        (
            node(ws_connections_total="0+60x45"),
            node(ws_connections_total="0x45"),
            # Clients that may not, and a deploy.
            node(ws_connections_total="0+60x45")
            | of_node("ws_connections_failed_total", "0+60x45", reason="unauthorized")
            | of_node("ws_connections_failed_total", "0+60x45", reason="draining"),
            # The relay tried another node, and clients felt nothing.
            relay
            | of_balancer("ws_balancer_handshakes_total", "0+60x45")
            | node(ws_connections_total="0+60x45")
            | of_node("ws_connections_failed_total", "0+60x45", reason="full"),
        ),
        # Three failures in a night in which nobody else came.
        node(ws_connections_total="0x61") | of_node("ws_connections_failed_total", "0x30 3x30", reason="internal"),
        lambda good, bad: (
            node(ws_connections_total=good) | of_node("ws_connections_failed_total", bad, reason="internal")
        ),
    )


def _deliveries(settings: MonitorSettings) -> _Objective:
    limit = repr(settings.slo_delivery_ms / 1000)

    def observed(in_time: str, all_of_them: str) -> dict[str, str]:
        return of_node("ws_delivery_latency_seconds_bucket", in_time, le=limit) | node(
            ws_delivery_latency_seconds_count=all_of_them
        )

    return _Objective(
        "Delivery",
        settings.slo_delivery,
        "fleet:ws_deliveries_late:ratio_rate",
        "fleet:ws_deliveries_late:rate",
        f"publications were delivered after {settings.slo_delivery_ms} ms",
        "Subscribers get publications late: nodes or the bus are behind, or wait for what they cannot have.",
        (observed("9x45", "9+60x45"),),
        (
            observed("0+60x45", "0+60x45"),
            observed("0x45", "0x45"),
            # The node began anew.
            observed("9000x15 0+60x60", "9000x15 0+60x60"),
        ),
        observed("0x61", "0x30 3x30"),
        lambda good, _bad: observed(good, f"0+{_EACH_STEP}x200"),
    )


def group(settings: MonitorSettings) -> Group:
    """The recordings of the objectives and the alerts on them.

    Args:
        settings: the objectives.
    """
    objectives = (_handshakes(settings), _deliveries(settings))
    alerts = tuple(_burn(objective, burn) for objective in objectives for burn in _BURNS)
    return Group("slo", (*recording.slo(settings), *alerts), interval="30s")
