"""Grafana dashboards, made from the same declarations as the metrics and the alerts.

Each file in `data/dashboards/` is one dashboard, `panels.py` says what it is made of, and `drawing.py` turns it into
Grafana's JSON.

Rule: nothing there names an instance, a job or a data source; variables do, so a dashboard fits any Prometheus.
"""

from __future__ import annotations

from trunkline.errors import StartError
from trunkline.monitor.dashboards.panels import Board
from trunkline.monitor.rules import load, promql
from trunkline.monitor.rules.variables import variables
from trunkline.monitor.text.data_files import DATA, DataFile, Variables, data_file
from trunkline.settings.monitor import MonitorSettings


def all_dashboards(settings: MonitorSettings) -> dict[str, str]:
    """Every dashboard.

    Args:
        settings: objectives, and links to runbooks.

    Returns:
        JSON text by uid.

    Raises:
        StartError: the package that makes them is not installed.
        DataError: a file is wrong, with the place.
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
    groups = load.groups(settings)
    alerts = [alert for group in groups for alert in group.alerts]
    recorded = {rule.name: rule.expr for group in groups for rule in group.recordings}
    known = variables(settings)
    boards = (
        read_board(data_file(f"dashboards/{path.name}"), known) for path in sorted((DATA / "dashboards").iterdir())
    )
    return {
        board.uid: drawing.draw(board, settings, alerts, lambda expr: drawing.resolved(expr, recorded))
        for board in boards
    }


def read_board(file: DataFile, known: Variables) -> Board:
    """The dashboard of a file.

    Args:
        file: of `data/dashboards/`.
        known: what its variables stand for.

    Raises:
        DataError: the file is wrong, or a query names a series that is declared nowhere.
    """
    found = file.decode(file.completed(known), Board, strict=False)
    for row_number, row in enumerate(found.rows):
        for number, panel in enumerate(row.panels):
            for query_number, query in enumerate(panel.queries):
                unknown = promql.undeclared(query.expr, load.is_declared)
                if unknown:
                    place = ("rows", row_number, "panels", number, "queries", query_number, "expr")
                    why = f"panel {panel.title!r} names the series {unknown}, which is declared nowhere"
                    raise file.error(why, *place, word=unknown)
    return found
