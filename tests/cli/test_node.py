"""Command lines of `serve` that are read without typer mean what typer makes of them, and typer reads all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trunkline.cli import node
from trunkline.cli.commands import app
from trunkline.settings.sections import ServerSettings


@pytest.fixture
def by_typer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command hands on when typer has read its line."""
    found: list[Any] = []

    def run(*arguments: Any) -> int:
        found.append(arguments)
        return 0

    monkeypatch.setattr(node, "run", run)
    return found


@pytest.mark.parametrize(
    "line",
    [
        "serve",
        "serve shop:app",
        "serve --port 3001 shop:app --host=127.0.0.1",
        "serve --name a --colour blue --bus nats://127.0.0.1:4222,nats://127.0.0.1:4223",
        "serve --config some/where.toml --port 0",
        "serve --port 1 --port 2",
        "serve --name= --host ::1",
    ],
)
def test_the_same_as_by_typer(line: str, by_typer: list[Any]) -> None:
    """Options in any order, with a space or an equals sign; the last of two counts."""
    read = node.read(line.split())
    assert read is not None
    assert CliRunner().invoke(app, line.split()).exit_code == 0
    ((flags, config_file),) = by_typer
    assert read.config_file == config_file
    assert read.flags == {name: value for name, value in flags.items() if value is not None}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "up",
        "--version",
        "serve --help",
        "serve -h",
        "serve --reload",
        "serve a:b c:d",
        "serve --port",
        "serve --port x",
        "serve --port -1",
        "serve --host --port 1",
        "serve --",
        "serve --nmae a",
    ],
)
def test_left_to_typer(line: str) -> None:
    """Help, mistakes and what needs more than a node."""
    assert node.read(line.split()) is None


def test_every_option_is_known() -> None:
    """The two lists of options are one, apart from what only typer reads."""
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    declared = {name for parameter in command.params for name in parameter.opts}
    assert declared == {"app", "--config", "--reload", *node.OPTIONS}
    assert node.read(["serve", "--config", "a"]) == node.Arguments({}, Path("a"))


@pytest.mark.parametrize(
    ("host", "default", "url"),
    [
        ("0.0.0.0", True, "http://127.0.0.1:81/"),
        ("0.0.0.0", False, "http://127.0.0.1:81/"),
        ("::", False, "http://[::1]:81/"),
        ("fd00::7", False, "http://[fd00::7]:81/"),
        ("example.test", False, "http://example.test:81/"),
    ],
)
def test_who_starts_a_node_is_told_its_address(host: str, default: bool, url: str) -> None:
    """A URL that can be opened; and where nobody chose the host, that everybody may connect, and how to change that."""
    lines = node.greeting(ServerSettings(host=host), 81, host_is_default=default)
    assert lines[0] == f"serving on {url}"
    assert len(lines) == 1 + default
    if default:
        assert "all interfaces" in lines[1]
        assert "--host 127.0.0.1" in lines[1]


def test_a_node_behind_an_edge_is_not_for_people() -> None:
    """It is reached by its advertised URL."""
    assert node.greeting(ServerSettings(advertise="http://10.0.0.7:80"), 81, host_is_default=True) == []
