"""The help of every command, as a user reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from trunkline.cli.commands import app


def commands(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words that name each command of a group, those of its own groups included."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__)
    for inner in group.registered_groups:
        assert isinstance(inner.name, str)
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, (*path, inner.name))


@pytest.mark.parametrize("words", list(commands(app)), ids=" ".join)
def test_help_has_no_types_of_python(words: tuple[str, ...]) -> None:
    """`<list[str]>` says nothing to a user; a value that may be given again has a name instead."""
    found = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert found.exit_code == 0
    assert "Usage: " in found.output
    assert "list[" not in found.output
