"""Draws panels of the fleet dashboard as SVG, with its own expressions, from what a Prometheus has scraped.

python docs/make_pictures.py http://127.0.0.1:9090 docs/pictures --last 120

Bands: orange where a node drained, red where one did not answer.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from trunkline.monitor.dashboards import read_board
from trunkline.monitor.dashboards.panels import COLOURS as THRESHOLD_COLOURS
from trunkline.monitor.dashboards.panels import Panel
from trunkline.monitor.rules.variables import variables
from trunkline.monitor.text.data_files import data_file
from trunkline.settings.monitor import MonitorSettings

TITLES = (
    "Connections over time", "Connections by node", "Opened and ended", "Disconnects by reason", "Message rate",
    "Delivery latency", "CPU used", "Event-loop lag",
)  # fmt: skip
COLOURS = ("#3274d9", "#e0752d", "#299c46", "#a352cc", "#d44a3a", "#1f9e9e", "#8a8a8a", "#b8860b")
BANDS = (("max by (instance) (ws_draining) == 1", "#ff9830"), ('up{job="trunkline-node"} == 0', "#f2495c"))
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 72, 16, 40, 78
SCALES = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "Bps": ((1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")),
}
SUFFIXES = {"percent": " %", "cps": "/s", "cpm": "/min"}

Line = tuple[str, list[tuple[float, float]]]


def lines(prometheus: str, expression: str, legend: str, start: float, end: float, step: float) -> list[Line]:
    """What an expression gave over time: legend and points of each series."""
    expression = expression.replace("$__rate_interval", f"{max(4 * step, 5):.0f}s")
    expression = re.sub(r"\$(job|instance|colour)", ".*", expression)
    query = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": step})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=30) as answer:  # noqa: S310
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    found: list[Line] = []
    for series in result:
        name = legend
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            name = name.replace(f"{{{{{label}}}}}", series["metric"].get(label, ""))
        points = [(float(at), float(value)) for at, value in series["values"]]
        found.append((name.strip(), [point for point in points if math.isfinite(point[1])]))
    return sorted((name, points) for name, points in found if points)


def told(value: float, unit: str) -> str:
    """A number as people write it."""
    if unit in SCALES:
        by, name = next((each for each in SCALES[unit] if abs(value) >= each[0]), SCALES[unit][-1])
        return f"{value / by:.3g} {name}" if value else "0"
    return f"{value:,.4g}{SUFFIXES.get(unit, '')}"


def round_above(value: float) -> float:
    """A number not below it at which an axis may end, so that its quarters are round, too."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(power * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if power * factor >= value)


def svg(
    panel: Panel, drawn: list[Line], bands: list[tuple[str, list[float]]], start: float, end: float, step: float
) -> str:
    """The picture of a panel: its lines over the bands, from `start` to `end`, a point each `step`."""
    highest = round_above(max((value for _, points in drawn for _, value in points), default=1.0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(at: float) -> str:
        return f"{LEFT + wide * (at - start) / (end - start):.1f}"

    def y(value: float) -> str:
        return f"{TOP + high * (1 - value / highest):.1f}"

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"',
        ' font-size="11">',
        f"<title>{escape(panel.title)}</title><desc>{escape(panel.description)}</desc>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="12" y="22" font-size="14" font-weight="bold" fill="#222">{escape(panel.title)}</text>',
    ]
    for colour, moments in bands:
        width = wide * step / (end - start)
        out += [f'<rect x="{x(at)}" y="{TOP}" width="{width:.2f}" height="{high}" fill="{colour}" fill-opacity=".18"/>'
                for at in moments]  # fmt: skip
    for quarter in range(5):
        value = highest * quarter / 4
        out.append(f'<path d="M{LEFT} {y(value)}h{wide}" stroke="#ddd"/>')
        place = f'x="{LEFT - 6}" y="{float(y(value)) + 4:.1f}" text-anchor="end"'
        out.append(f'<text {place} fill="#555">{escape(told(value, panel.unit))}</text>')
    for part in range(7):
        at = start + (end - start) * part / 6
        where = f'x="{x(at)}" y="{TOP + high + 16}"'
        out.append(f'<text {where} text-anchor="middle" fill="#555">{at - start:.0f} s</text>')
    for limit, colour in panel.thresholds:
        if limit is not None and limit <= highest:
            stroke = THRESHOLD_COLOURS[colour]
            out.append(f'<path d="M{LEFT} {y(limit)}h{wide}" stroke="{stroke}" stroke-dasharray="5 4"/>')
    across, down = LEFT, TOP + high + 36
    for number, (name, points) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        path, last = "", -math.inf
        for at, value in points:
            # Where there was no sample there is no line.
            path += f"{'L' if at - last <= step else 'M'}{x(at)} {y(value)}"
            last = at
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        room = 34 + 6.2 * len(name)
        if across + room > WIDTH - RIGHT:
            across, down = LEFT, down + 16
        out.append(f'<path d="M{across} {down - 4}h14" stroke="{colour}" stroke-width="3"/>')
        out.append(f'<text x="{across + 18}" y="{down}" fill="#333">{escape(name)}</text>')
        across += int(room)
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="where Prometheus is")
    parser.add_argument("out", type=Path, help="directory of the pictures")
    parser.add_argument("--last", type=float, default=3600, help="how many seconds up to now")
    given = parser.parse_args()
    end = math.floor(time.time())
    start, step = end - given.last, max(1.0, given.last / 300)
    bands = [
        (colour, [at for _, points in lines(given.prometheus, expr, "", start, end, step) for at, _ in points])
        for expr, colour in BANDS
    ]
    fleet = read_board(data_file("dashboards/fleet.yml"), variables(MonitorSettings()))
    panels = {panel.title: panel for panel in fleet.panels()}
    for panel in (panels[title] for title in TITLES):
        drawn = [
            line for query in panel.queries
            for line in lines(given.prometheus, query.expr, query.legend, start, end, step)
        ]  # fmt: skip
        path = given.out / f"{re.sub(r'[^a-z]+', '-', panel.title.lower())}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg(panel, drawn, bands, start, end, step))


if __name__ == "__main__":
    main()
