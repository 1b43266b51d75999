"""Writes docs/reference.md from the code: settings, close codes, admin routes, series, alerts. Run after changes."""

from __future__ import annotations

from pathlib import Path

from trunkline.metrics.series import ALIASES, BALANCER_SERIES, SERIES
from trunkline.monitor.rules.load import groups
from trunkline.net.admin.routes import BALANCER_ROUTES, NODE_ROUTES
from trunkline.protocol import close_codes
from trunkline.settings.load import describe
from trunkline.settings.monitor import MonitorSettings

HEAD = """# Reference

Made by `python docs/make_reference.py` from the code; a test compares them.

"""

RELOAD = """The column reload says for whom a new value counts after a [reload](behaviour.md#reload): for everybody at
once, or for connections from then on. A setting without a word there takes a restart.
"""


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def render() -> str:
    """The whole page."""
    lines = [HEAD + "## Settings\n", RELOAD]
    lines += ["| setting | default | takes | environment | reload | |", "|---|---|---|---|---|---|"]
    for row in describe():
        names = ", ".join(f"`{name}`" for name in row.environment)
        default = f"`{cell(row.default)}`" if row.default else ""
        lines.append(f"| `{row.key}` | {default} | {cell(row.allowed)} | {names} | {row.reload} | {cell(row.help)} |")
    lines += ["", "## Close codes\n", "| code | reason | reconnect |", "|---|---|---|"]
    lines += [f"| {row.code} | {row.reason} | {row.reconnect.replace('_', ' ')} |" for row in close_codes.TABLE]
    lines += ["", "## Admin ports\n", "What a token needs for a route (`admin.tokens`).", ""]
    lines += ["| port of | route | scope | |", "|---|---|---|---|"]
    for part, routes in (("a node", NODE_ROUTES), ("a balancer", BALANCER_ROUTES)):
        lines += [f"| {part} | `{each.method} {each.path}` | {each.scope} | {each.does} |" for each in routes]
    for title, declared in (("Series of a node", SERIES), ("Series of a balancer", BALANCER_SERIES)):
        lines += ["", f"## {title}\n", "| series | kind | labels | unit | |", "|---|---|---|---|---|"]
        for series in declared:
            labels = ", ".join(f"`{label}`" for label in series.labels)
            lines.append(f"| `{series.name}` | {series.kind} | {labels} | {series.unit} | {series.help} |")
    lines += ["", "## Aliases\n", "Added by `metrics.aliases`, for existing dashboards.", ""]
    lines += ["| `metrics.aliases` | alias | same as |", "|---|---|---|"]
    lines += [
        f"| `{family}` | `{alias}` | `{name}` |" for family, each in ALIASES.items() for alias, name in each.items()
    ]
    lines += ["", "## Recorded series\n", "| series | |", "|---|---|"]
    rules = groups(MonitorSettings())
    lines += [f"| `{rule.name}` | {cell(rule.help)} |" for group in rules for rule in group.recordings]
    lines += ["", "## Alerts\n", "| alert | severity | after | dashboard | |", "|---|---|---|---|---|"]
    for alert in (alert for group in rules for alert in group.alerts):
        name = f"[{alert.name}](runbooks/{alert.runbook})"
        about = cell(alert.annotations.description)
        lines.append(f"| {name} | {alert.labels.severity} | {alert.lasts} | `{alert.dashboard}` | {about} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(render())
