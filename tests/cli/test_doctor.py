"""`trunkline doctor` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trunkline.cli.commands import app
from trunkline.errors import SettingsError

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def report(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("--json", *arguments).output)
    return found


def test_a_machine_that_cannot_hold_so_many_is_not_ready() -> None:
    """Exit 1, and each line that is not well is followed by what to do; nothing is left behind."""
    result = run("--connections", "90000000", "--role", "node")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert "ready for 90,000,000 connections (nodes)?" in lines[0]
    for number, line in enumerate(lines[:-1]):
        if line.startswith(("warning ", "error ")):
            assert "-> " in lines[number + 1]
    assert "1 ok" in lines[-1] or " ok, " in lines[-1]
    assert lines[-1].endswith("what each means: docs/tuning.md")
    assert list(Path().iterdir()) == []


def test_json_has_all_that_was_read() -> None:
    """Findings, the machine, what was wanted; ready says what the exit code says."""
    result = run("--json", "-n", "10", "--role", "node")
    found = json.loads(result.output)
    assert found["ready"] == (result.exit_code == 0)
    assert found["wanted"]["connections"] == 10
    assert found["machine"]["files"]["hard"] > 0
    states = {each["check"]: each["state"] for each in found["findings"]}
    assert states["open files"] == states["memory limit"] == "ok"


def test_settings_say_what_is_wanted(tmp_path: Path) -> None:
    """Without flags, the number of connections is that of the node; NATS is asked where the bus has one."""
    (tmp_path / "trunkline.toml").write_text('[server]\nmax_connections = 77\n[bus]\nurl = "nats://127.0.0.1:1"\n')
    found = report()
    assert found["wanted"]["connections"] == 77
    assert {"check": "NATS", "state": "error"}.items() <= next(
        each for each in found["findings"] if each["check"] == "NATS"
    ).items()
    assert found["ready"] is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--role", "database"), "it must be one of node, balancer, load"),
        (("--pid", "999999999"), "no such process"),
        (("--redis", "127.0.0.1:6379"), "redis://"),
    ],
)
def test_bad_usage_is_refused(arguments: tuple[str, ...], says: str) -> None:
    """The entry point makes exit code 2 of it."""
    result = run(*arguments)
    assert isinstance(result.exception, SettingsError)
    assert says in str(result.exception)
