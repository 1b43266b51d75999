"""What `${name}` stands for in rules, cases and dashboards: limits that settings set, and shared pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from trunkline.metrics.series import LATENCY_BUCKETS
from trunkline.monitor.text.data_files import data_file
from trunkline.settings.monitor import MonitorSettings

MOST: Final = 0.95
"""A loose objective times 14.4 would be more than everything; from this share on it burns fast, whatever it allows."""

_EACH_STEP: Final = 10_000
"""Events from one sample of a case to the next."""


class _Burn(NamedTuple):
    """A burn rate, and a case that burns within the short window alone.

    Attributes:
        factor: the burn rate.
        too_bad: how many times over it the newest steps are.
        steps: steps that were all well.
        newest: steps since then.
    """

    speed: str
    factor: float
    too_bad: int
    steps: int
    newest: int


_BURNS: Final = (_Burn("fast", 14.4, 3, 33, 2), _Burn("steady", 6.0, 2, 23, 12), _Burn("slow", 1.0, 3, 128, 22))


def variables(settings: MonitorSettings) -> dict[str, str]:
    """Every variable.

    Args:
        settings: where links lead, objectives, the idle colour, and whether nodes are to be found at all.
    """
    shared = data_file("shared.yml")
    idle = settings.idle_colour
    named = settings.nodes or settings.nodes_file or settings.nodes_dns
    expected = bool(named or settings.nodes_docker or settings.kubernetes)
    return {
        **shared.decode(shared.document, dict[str, str]),
        "chosen": 'job=~"$job",instance=~"$instance"',
        "runbooks": settings.runbook_url.rstrip("/") or "docs/runbooks",
        "grafana": settings.grafana_url.rstrip("/"),
        "idle_colour": idle,
        "watched_colour": "green" if idle == "blue" else "blue",
        "other_colour": idle or "green",
        "watched_colours": f'{{colour!="{idle}"}}' if idle else "",
        "nodes_expected": "yes" if expected else "",
        "nodes_optional": "" if expected else "yes",
        "no_nodes": "vector(0)" if expected else '0 * count(up{job="trunkline-node"})',
        "delivery_ms": str(settings.slo_delivery_ms),
        "delivery_limit": next(repr(bound) for bound in LATENCY_BUCKETS if bound == settings.slo_delivery_ms / 1000),
        **dict(_of_objective("handshake", settings.slo_handshake)),
        **dict(_of_objective("delivery", settings.slo_delivery)),
    }


def _of_objective(name: str, target: float) -> Iterator[tuple[str, str]]:
    """What an objective allows, its limits, and samples that come close to them without reaching them."""
    budget = 1 - target
    yield f"{name}_objective", f"{100 * target:g}"
    yield f"{name}_kept", repr(100 * target)
    yield f"{name}_budget", f"{budget:.6g}"
    yield f"{name}_allowed", f"{100 * budget:.4g}"
    for burn in _BURNS:
        yield f"{name}_{burn.speed}", f"{min(burn.factor * budget, MOST):.6g}"
        bad = round(min(burn.too_bad * burn.factor * budget, 1) * _EACH_STEP)
        yield from _counted(f"{name}_{burn.speed}_begins", (burn.steps, 0), (burn.newest, bad))
    yield from _counted(f"{name}_ended", (5, _EACH_STEP), (60, round(0.5 * budget * _EACH_STEP)))


def _counted(name: str, *phases: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Counters of good and of bad events, from phases of so many steps with so many bad events each."""
    good, bad, texts = 0, 0, (["0"], ["0"])
    for steps, each in phases:
        texts[0].append(f"{good + _EACH_STEP - each}+{_EACH_STEP - each}x{steps - 1}")
        texts[1].append(f"{bad + each}+{each}x{steps - 1}")
        good, bad = good + steps * (_EACH_STEP - each), bad + steps * each
    yield f"{name}_good", " ".join(texts[0])
    yield f"{name}_bad", " ".join(texts[1])
