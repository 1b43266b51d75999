"""Writes docs/reference.md from the code: settings, close codes, series, alerts. Run it after one changed."""

from __future__ import annotations

from pathlib import Path

from trunkline.metrics.series import ALIASES, BALANCER_SERIES, SERIES
from trunkline.monitor.rules.rule import Alert, Recording
from trunkline.monitor.rules.rules import groups
from trunkline.protocol import close_codes
from trunkline.settings.load import describe
from trunkline.settings.monitor import MonitorSettings

HEAD = """# Reference

Made by `python docs/make_reference.py` from the code; a test compares them.

"""


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def render() -> str:
    """The whole page."""
    lines = [HEAD + "## Settings\n", "| setting | default | takes | environment | |", "|---|---|---|---|---|"]
    for row in describe():
        names = ", ".join(f"`{name}`" for name in row.environment)
        default = f"`{cell(row.default)}`" if row.default else ""
        lines.append(f"| `{row.key}` | {default} | {cell(row.allowed)} | {names} | {cell(row.help)} |")
    lines += ["", "## Close codes\n", "| code | reason | reconnect |", "|---|---|---|"]
    lines += [f"| {row.code} | {row.reason} | {row.reconnect.replace('_', ' ')} |" for row in close_codes.TABLE]
    for title, declared in (("Series of a node", SERIES), ("Series of a balancer", BALANCER_SERIES)):
        lines += ["", f"## {title}\n", "| series | kind | labels | unit | |", "|---|---|---|---|---|"]
        for series in declared:
            labels = ", ".join(f"`{label}`" for label in series.labels)
            lines.append(f"| `{series.name}` | {series.kind} | {labels} | {series.unit} | {series.help} |")
    lines += ["", "## Aliases\n", '`metrics.aliases = ["websocket"]` adds:', "", "| alias | same as |", "|---|---|"]
    lines += [f"| `{alias}` | `{name}` |" for alias, name in ALIASES["websocket"].items()]
    lines += ["", "## Recorded series\n", "| series | |", "|---|---|"]
    recorded: list[Recording] = []
    alerts: list[Alert] = []
    for group in groups(MonitorSettings()):
        recorded += [rule for rule in group.rules if isinstance(rule, Recording)]
        alerts += [rule for rule in group.rules if isinstance(rule, Alert)]
    lines += [f"| `{rule.name}` | {cell(rule.help)} |" for rule in recorded]
    lines += ["", "## Alerts\n", "| alert | severity | after | dashboard | |", "|---|---|---|---|---|"]
    for alert in alerts:
        name = f"[{alert.name}](runbooks/{alert.runbook})"
        lines.append(f"| {name} | {alert.severity} | {alert.lasts} | `{alert.dashboard}` | {cell(alert.description)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(render())
