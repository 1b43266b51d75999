"""Which alerts are not told while another one fires that explains them. Pure.

Rules:

- A target that cannot be scraped explains every alert on the same instance: what fired a moment ago would be told of a
  dead process.
- A node without the bus explains what its clients miss.
- Of two limits on one number the higher is enough.
- Alerts stay visible in Prometheus and Alertmanager; only the telling waits.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.text.yaml_text import Document

DOWN: Final = ("TrunklineNodeDown", "TrunklineBalancerDown", "TrunklineTargetDown")

BECAUSE: Final[dict[str, tuple[str, ...]]] = {
    "TrunklineBusDisconnected": (
        "TrunklineErrorRate",
        "TrunklineErrorShare",
        "TrunklinePublicationsLost",
        "TrunklinePublicationsDropped",
        "TrunklineReplayRate",
        "TrunklineReplayMisses",
    ),
    "TrunklineNoBackendUp": ("TrunklineBackendDown", "TrunklineBackendFlapping", "TrunklineImbalance"),
    "TrunklineConnectionLimitReached": ("TrunklineCapacityCritical", "TrunklineCapacityHigh"),
    "TrunklineCapacityCritical": ("TrunklineCapacityHigh",),
    "TrunklineErrorRate": ("TrunklineErrorShare",),
    "TrunklineMemoryCritical": ("TrunklineMemoryHigh",),
    "TrunklineCpuCritical": ("TrunklineCpuHigh",),
    "TrunklineSlowClientsDisconnected": ("TrunklineSlowClients",),
    "TrunklineMachineMemoryExhausted": ("TrunklineMachineMemoryLow",),
    "TrunklineDiskNearlyFull": ("TrunklineDiskSpaceLow", "TrunklineDiskFillsSoon"),
    "TrunklinePostgresTransactionIdsExhausted": ("TrunklinePostgresTransactionIdsAge",),
}
"""The alerts that one explains when both are about the same thing."""

FOR_ALL: Final[dict[str, tuple[str, ...]]] = {
    "TrunklineNoNodeUp": ("TrunklineNodeDown", "TrunklineNoConnections", "TrunklineColourEmpty"),
    "TrunklineNoConnections": ("TrunklineColourEmpty",),
    "TrunklineHandshakeBudgetFastBurn": ("TrunklineHandshakeBudgetSteadyBurn", "TrunklineHandshakeBudgetSlowBurn"),
    "TrunklineHandshakeBudgetSteadyBurn": ("TrunklineHandshakeBudgetSlowBurn",),
    "TrunklineDeliveryBudgetFastBurn": ("TrunklineDeliveryBudgetSteadyBurn", "TrunklineDeliveryBudgetSlowBurn"),
    "TrunklineDeliveryBudgetSteadyBurn": ("TrunklineDeliveryBudgetSlowBurn",),
}
"""The same, whatever they are about."""

SAME: Final = ("job", "instance", "name", "device", "mountpoint", "datname")
"""Labels that say what an alert is about. One that both lack counts as equal."""


def inhibit_rules() -> list[Document]:
    """Alertmanager's inhibit_rules."""
    any_down = "|".join(DOWN)
    down: Document = {
        # Without an instance it would be equal to every alert on the fleet as a whole.
        "source_matchers": [f'alertname=~"{any_down}"', 'instance!=""'],
        "target_matchers": [f'alertname!~"{any_down}"', 'scope!=""'],
        "equal": ["instance"],
    }
    return [
        down,
        *(_rule(source, targets, list(SAME)) for source, targets in BECAUSE.items()),
        *(_rule(source, targets, []) for source, targets in FOR_ALL.items()),
    ]


def _rule(source: str, targets: tuple[str, ...], equal: list[str]) -> Document:
    found: Document = {
        "source_matchers": [f'alertname="{source}"'],
        "target_matchers": [f'alertname=~"{"|".join(targets)}"'],
    }
    return {**found, "equal": equal} if equal else found
