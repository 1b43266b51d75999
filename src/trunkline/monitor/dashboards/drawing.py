"""Grafana's JSON of a board: the grid, variables, annotations and links. Pure.

Rules: ids are positions, so that the same declaration gives the same bytes. A panel whose series an alert of this
dashboard watches links to that alert's runbook; nobody writes those links by hand, so none is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, gauge, heatmap, prometheus, stat, statetimeline
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shown
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from trunkline.monitor.dashboards.panels import COLOURS, Board, Panel, Row, Thresholds
from trunkline.monitor.rules import promql
from trunkline.monitor.rules.load import is_declared
from trunkline.monitor.rules.rule import Alert
from trunkline.settings.monitor import MonitorSettings

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
ANY: Final = ".+"
CONTEXT: Final = frozenset(
    (
        "up", "ws_build_info", "ws_balancer_build_info", "ws_connections_active", "ws_connections_max",
        "ws_memory_limit_bytes", "ws_draining", "ws_balancer_traffic_weight", "ws_balancer_traffic_generation",
    )
)  # fmt: skip
"""Series that stand beside the one that an expression is about: what something is a share of, and exceptions."""

Scraped = Callable[[str], tuple[str, ...]]


def draw(board: Board, settings: MonitorSettings, alerts: Sequence[Alert], scraped: Scraped) -> str:
    """The JSON text of a dashboard.

    Args:
        board: its declaration.
        settings: for links.
        alerts: all alerts.
        scraped: the series behind an expression, in the order of its text; recording rules resolved.
    """
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["trunkline", *board.tags])
        .editable()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("15s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(_variables(board))
        .annotations(_annotations())
        .links(_links(settings))
    )
    own = [alert for alert in alerts if alert.dashboard == board.uid]
    number, top = 1, 0
    for row in board.rows:
        heading = dashboard.Row(row.title).id(number).collapsed(row.folded)
        heading.grid_pos(model.GridPos(h=1, w=24, x=0, y=top))
        number, top = number + 1, top + 1
        places = _places(row, top)
        for panel, place in zip(row.panels, places, strict=True):
            drawn = _panel(panel, settings, _watching(panel, own, scraped)).id(number).grid_pos(place)
            if row.folded:
                heading.with_panel(drawn)
            elif panel is row.panels[0]:
                builder.with_row(heading).with_panel(drawn)
            else:
                builder.with_panel(drawn)
            number += 1
        if row.folded:
            builder.with_row(heading)
        top = max(place.y + place.h for place in places)
    text = JSONEncoder().encode(builder.build())
    return json.dumps(_with_wording(json.loads(text)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _places(row: Row, top: int) -> list[model.GridPos]:
    """Where the panels of a row stand: side by side, and on the next line when the width is used up."""
    found, x = [], 0
    for panel in row.panels:
        if x + panel.width > 24:
            x, top = 0, top + row.height
        found.append(model.GridPos(h=row.height, w=panel.width, x=x, y=top))
        x += panel.width
    return found


def _watching(panel: Panel, alerts: Sequence[Alert], scraped: Scraped) -> list[Alert]:
    """Alerts that are about a series of this panel."""
    here = {name for query in panel.queries for name in scraped(query.expr)}
    shown = here - CONTEXT or here
    found = []
    for alert in alerts:
        theirs = scraped(alert.expr)
        # When all of them mostly stand beside others, the first one is what it is about.
        if alert.name in panel.explains or shown & (set(theirs) - CONTEXT or set(theirs[:1])):
            found.append(alert)
    return found


def resolved(expression: str, recorded: dict[str, str]) -> tuple[str, ...]:
    """The scraped series behind an expression, in the order of its text.

    Args:
        expression: PromQL.
        recorded: expressions of recording rules by name.
    """
    found: dict[str, None] = {}
    for name in sorted(promql.names_in(expression), key=expression.index):
        if name in recorded:
            found |= dict.fromkeys(resolved(recorded[name], recorded))
        else:
            whole = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            found[name if is_declared(name) else whole] = None
    return tuple(found)


def _panel(panel: Panel, settings: MonitorSettings, alerts: Sequence[Alert]) -> Any:
    """The SDK's builder of a panel, without its place. Its builders share methods but no type."""
    made: Any = _SHAPES[panel.shape](panel)
    made.title(panel.title).datasource(SOURCE).unit(panel.unit).thresholds(_thresholds(panel.thresholds))
    if panel.shape != "heatmap":
        by_threshold = panel.shape in ("stat", "gauge", "states")
        mode = model.FieldColorModeId.THRESHOLDS if by_threshold else model.FieldColorModeId.PALETTE_CLASSIC
        made.color_scheme(dashboard.FieldColor().mode(mode))
    description = panel.description
    if settings.runbook_url:
        base = settings.runbook_url.rstrip("/")
        made.links([_runbook(alert.name, f"{base}/{alert.runbook}") for alert in alerts])
    elif alerts:
        description += "\n\nRunbooks: " + ", ".join(f"docs/runbooks/{alert.runbook}" for alert in alerts)
    made.description(description)
    if panel.mappings:
        results = {
            f"{value:g}": model.ValueMappingResult(text=text, color=COLOURS[colour], index=index)
            for index, (value, text, colour) in enumerate(panel.mappings)
        }
        made.mappings([model.ValueMap(options=results)])
    if panel.min is not None:
        made.min(panel.min)
    if panel.max is not None:
        made.max(panel.max)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        target.datasource(SOURCE)
        if panel.shape == "heatmap":
            target.format(PromQueryFormat.HEATMAP)
        made.with_target(target.instant() if panel.shape == "gauge" else target.range())
    return made


def _runbook(alert: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(f"Runbook: {alert}").url(url).type(model.DashboardLinkType.LINK).target_blank(True)


def _thresholds(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    # Grafana wants a first step without a value, which stands for all that is below the second.
    steps = [model.Threshold(value, COLOURS[colour]) for value, colour in thresholds]
    config = dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE)
    return config.steps(steps or [model.Threshold(None, "green")])


def _lines(panel: Panel) -> Any:
    made = lines.Panel().fill_opacity(40 if panel.shape == "stack" else 8).line_width(1)
    made.show_points(shown.VisibilityMode.NEVER)
    if panel.shape == "stack":
        made.stacking(common.StackingConfig().mode(shown.StackingMode.NORMAL).group("A"))
    if panel.thresholds:
        style = common.GraphThresholdsStyleConfig().mode(shown.GraphTresholdsStyleMode.DASHED)
        made.thresholds_style(style)
    legend = common.VizLegendOptions().display_mode(shown.LegendDisplayMode.LIST).show_legend(True)
    made.legend(legend.placement(shown.LegendPlacement.BOTTOM))
    return made.tooltip(
        common.VizTooltipOptions().mode(shown.TooltipDisplayMode.MULTI).sort(shown.SortOrder.DESCENDING)
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().values(False).calcs(["lastNotNull"])


def _stat(panel: Panel) -> Any:
    made = stat.Panel().reduce_options(_last()).graph_mode(shown.BigValueGraphMode.AREA)
    if panel.mappings:
        made.graph_mode(shown.BigValueGraphMode.NONE)
    return made.color_mode(shown.BigValueColorMode.VALUE)


def _gauge(panel: Panel) -> Any:
    return gauge.Panel().reduce_options(_last()).show_threshold_markers(True)


def _heatmap(panel: Panel) -> Any:
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").exponent(0.5).steps(64)
    # Prometheus's buckets are ready to be drawn: nothing is calculated.
    return heatmap.Panel().show_tooltip().calculate(False).color(colours).y_axis(heatmap.YAxisConfig().unit(panel.unit))


def _states(panel: Panel) -> Any:
    return statetimeline.Panel().merge_values(True).fill_opacity(70).show_value(shown.VisibilityMode.NEVER)


_SHAPES: Final[dict[str, Callable[[Panel], Any]]] = {
    "lines": _lines,
    "stack": _lines,
    "stat": _stat,
    "gauge": _gauge,
    "heatmap": _heatmap,
    "states": _states,
}


def _variables(board: Board) -> list[Any]:
    label, holder = board.narrowed_by or ("", "")
    found: list[Any] = [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _variable("job", f"label_values({board.root}, job)").all_value(ANY),
    ]
    inside = 'job=~"$job"'
    if label:
        found.append(_variable(label, f"label_values({_narrowed(holder, inside)}, {label})").all_value(".*"))
        inside += f',{label}=~"${label}"'
    instance = _variable("instance", f"label_values({_narrowed(holder or board.root, inside)}, instance)")
    # Without a value of its own, All is the list of what was found, so that the label narrows every panel.
    found.append(instance if label else instance.all_value(ANY))
    return found


def _narrowed(selector: str, matchers: str) -> str:
    return f"{selector[:-1]},{matchers}}}" if selector.endswith("}") else f"{selector}{{{matchers}}}"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE).multi(True).include_all(True)
    variable.query({"query": query, "refId": f"variable-{name}"}).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.sort(model.VariableSort.ALPHABETICAL_ASC).current(everything)


ANNOTATIONS: Final = (
    (
        "Deploys",
        "count by (version, colour) (ws_build_info) unless count by (version, colour) (ws_build_info offset 5m)",
        "blue",
        True,
        "Deploy",
        "version {{version}}, colour {{colour}}",
    ),
    ("Drains", "max by (instance) (ws_draining) == 1", "orange", True, "Drain", "{{instance}} is draining"),
    (
        "Alerts",
        'max by (alertname, instance, severity) (ALERTS{alertstate="firing",alertname=~"Trunkline.*",'
        'severity=~"critical|warning"})',
        "red",
        True,
        "{{alertname}}",
        "{{severity}} {{instance}}",
    ),
)
"""Name, expression, colour, whether on at first, title and text. They are about the fleet, on every dashboard."""


def _annotations() -> list[Builder[model.AnnotationQuery]]:
    return [
        dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(on).icon_color(colour).expr(expr)
        for name, expr, colour, on, _, _ in ANNOTATIONS
    ]


def _with_wording(made: dict[str, Any]) -> dict[str, Any]:
    """Add what the SDK's model of an annotation lacks: its title and text."""
    for annotation, (*_, title, text) in zip(made["annotations"]["list"], ANNOTATIONS, strict=True):
        annotation |= {"titleFormat": title, "textFormat": text, "step": "15s"}
    return made


def _links(settings: MonitorSettings) -> list[Builder[model.DashboardLink]]:
    others = dashboard.DashboardLink("Trunkline").type(model.DashboardLinkType.DASHBOARDS).tags(["trunkline"])
    found: list[Builder[model.DashboardLink]] = [others.as_dropdown(True).keep_time(True).icon("external link")]
    if settings.runbook_url:
        runbooks = dashboard.DashboardLink("Runbooks").type(model.DashboardLinkType.LINK).icon("doc")
        found.append(runbooks.url(settings.runbook_url).target_blank(True))
    return found
