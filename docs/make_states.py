"""Writes the table of states in docs/deploys.md from the machine's own. Run it after that changed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from trunkline.deploy.machine.table import DOES, TRANSITIONS, Event
from trunkline.protocol.deploys import DeployState

PAGE = Path(__file__).parent / "deploys.md"
BEGIN = "<!-- states: made by `python docs/make_states.py` -->\n"
END = "<!-- /states -->\n"
SHOWN = {
    Event.HOLDS: "then",
    Event.FAILS: "on failure",
    Event.FORCED: "with `--on-slow force`, or late",
    Event.BLOCKED: "when blocked",
    Event.ROLLBACK: "`rollback`",
    Event.ABORT: "`abort`",
}


def render() -> str:
    """The table."""
    columns = ["state", "does", "leaves when", *SHOWN.values()]
    lines = [_row(columns), _row(["---"] * len(columns))]
    for state in get_args(DeployState):
        does, leaves = DOES[state]
        to = [TRANSITIONS.get((state, event), "") for event in SHOWN]
        lines.append(_row([f"`{state}`", does, leaves, *to]))
    return "".join(lines)


def written(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + render() + "\n" + END + rest.partition(END)[2]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
