"""The ports of a local stack, counted from Prometheus's own as the usual ones are: 9090, 9093, 9100. Pure."""

from __future__ import annotations

from typing import Final

PROMETHEUS: Final = 9090
ALERTMANAGER_STEP: Final = 3
NODE_EXPORTER_STEP: Final = 10
SPAN: Final = NODE_EXPORTER_STEP + 1
