"""What `trunkline drain` refuses by itself; that it drains is tried on a real fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import refusal
from tests.support.free_ports import free_port


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize("over", ["soon", "25h", "-5s"])
def test_a_time_that_is_none_or_too_long(
    over: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before any node is looked for, with what is allowed."""
    error = refusal(f"drain n1 --over {over}", monkeypatch, capsys)
    assert error.startswith(f"trunkline: setting --over: {over!r} cannot be used")
    assert "at most 24h" in error


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_without_a_node_the_way_to_one_is_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name and by address: what was looked at, and what the command takes; it has no option --admin."""
    port = free_port()
    monkeypatch.setenv("TRUNKLINE_ADMIN_PORT", str(port))
    for name, looked in (("n1", f"port {port}"), ("http://localhost", "http://localhost")):
        error = refusal(f"{command} {name}", monkeypatch, capsys)
        assert f"(looked at {looked})" in error
        assert "--admin" not in error
