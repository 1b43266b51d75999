"""Reads the table of transitions that a module's docstring shows."""

from __future__ import annotations

from collections.abc import Iterable


def shown_transitions(docstring: str, states: Iterable[str], events: Iterable[str]) -> dict[tuple[str, str], str]:
    """State and event to the state after it, by the names in the table: a column a state, a row an event."""
    lines = docstring.splitlines()
    head = next(line for line in lines if line.split()[:1] == ["event"])
    columns = {head.index(state): state for state in states}
    rows = {name: line for line in lines for name in events if line.split()[:1] == [name]}
    return {
        (state, name): line[at:].split()[0]
        for name, line in rows.items()
        for at, state in columns.items()
        if line[at : at + 1].strip()
    }
