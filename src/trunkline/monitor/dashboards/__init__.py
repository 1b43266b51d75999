"""Grafana dashboards, made from the same declarations as the metrics and the alerts.

Where things are: `panels.py` says what a dashboard is made of, `drawing.py` makes Grafana's JSON, and each other module
is one dashboard as plain data.

Rule: nothing here names an instance, a job or a data source; variables do, so a dashboard fits any Prometheus.
"""

from __future__ import annotations

from trunkline.errors import StartError
from trunkline.settings.monitor import MonitorSettings


def all_dashboards(settings: MonitorSettings) -> dict[str, str]:
    """Every dashboard.

    Args:
        settings: for links to runbooks.

    Returns:
        JSON text by uid.

    Raises:
        StartError: the package that makes them is not installed.
    """
    try:
        from trunkline.monitor.dashboards import drawing
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("grafana_foundation_sdk"):
            raise StartError(
                "Dashboards need the package grafana-foundation-sdk",
                "Install it with: pip install 'trunkline[monitor]'.",
            ) from error
        raise
    from trunkline.monitor.dashboards import containers, edge, fleet, nats, postgres, system
    from trunkline.monitor.rules import load

    groups = load.groups(settings)
    alerts = [alert for group in groups for alert in group.alerts]
    recorded = {rule.name: rule.expr for group in groups for rule in group.recordings}
    boards = (fleet.board(settings), edge.BOARD, system.BOARD, postgres.BOARD, containers.BOARD, nats.BOARD)
    return {
        board.uid: drawing.draw(board, settings, alerts, lambda expr: drawing.resolved(expr, recorded))
        for board in boards
    }
