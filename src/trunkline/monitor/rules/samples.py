"""Samples for the cases of alerts, in promtool's words and with the labels that a scrape gives. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.monitor.rules.rule import Case

NODE: Final = "10.0.0.1:3001"
BALANCER: Final = "10.0.0.9:8080"
AT_NODE: Final = {"job": "trunkline-node", "instance": NODE}
AT_BALANCER: Final = {"job": "trunkline-balancer", "instance": BALANCER}


def sample(name: str, values: str, **labels: str) -> dict[str, str]:
    """One series.

    Args:
        name: of the series.
        values: as promtool writes them, such as `1x10 0x20`.
        labels: all of its labels.
    """
    return {f"{name}{{{','.join(f'{label}={chr(34)}{text}{chr(34)}' for label, text in labels.items())}}}": values}


def node(instance: str = NODE, **series: str) -> dict[str, str]:
    """Series of a node that have no labels of their own: values by name."""
    at = {**AT_NODE, "instance": instance}
    return {key: text for name, values in series.items() for key, text in sample(name, values, **at).items()}


def of_node(name: str, values: str, **labels: str) -> dict[str, str]:
    """A series of a node with labels of its own; `instance` may be given."""
    return sample(name, values, **{**AT_NODE, **labels})


def balancer(**series: str) -> dict[str, str]:
    """Series of a balancer that have no labels of their own: values by name."""
    return {key: text for name, values in series.items() for key, text in sample(name, values, **AT_BALANCER).items()}


def of_balancer(name: str, values: str, **labels: str) -> dict[str, str]:
    """A series of a balancer with labels of its own."""
    return sample(name, values, **{**AT_BALANCER, **labels})


def lasting(at: str, case: Case) -> tuple[Case, Case]:
    """A case that fires, and the same at a moment when its condition holds, but not for long enough.

    Args:
        at: that moment.
        case: fires.
    """
    return case, msgspec.structs.replace(case, at=at, labels=None, summary="")
