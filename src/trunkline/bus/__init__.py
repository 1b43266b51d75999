"""What carries publications between nodes; the contract is in `base.py`. A bus is loaded when an address names it."""

from trunkline.bus.base import (
    Bus,
    Deliver,
    HistoryPage,
    OnState,
    Publication,
    Published,
    Retention,
    RetentionOf,
    Subscription,
)
from trunkline.bus.open import open_bus
from trunkline.errors import BusUnavailable

__all__ = [
    "Bus",
    "BusUnavailable",
    "Deliver",
    "HistoryPage",
    "OnState",
    "Publication",
    "Published",
    "Retention",
    "RetentionOf",
    "Subscription",
    "open_bus",
]
