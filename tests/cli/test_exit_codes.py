"""What a command's exit code is when Ctrl-C ends it before its own orderly stop is in place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.environment import environment
from trunkline.cli import load
from trunkline.cli.commands import app
from trunkline.errors import StartError


@pytest.mark.parametrize("command", ["serve", "balance", "config check"])
def test_an_interruption_is_130(command: str, tmp_path: Path) -> None:
    """With typer and without; the settings file is a pipe that nobody ends, so the command is in the midst of it."""
    pipe = tmp_path / "settings.toml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "trunkline", *command.split(), "--config", str(pipe)],
        cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # Returns when the command has opened its end.
    with pipe.open("w"):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("package", ["picows", "hdrh", "prometheus_client"])
def test_a_missing_part_of_the_load_tester(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is missing of it, the error names the extra that brings it."""
    monkeypatch.setattr(load, "find_spec", lambda name: None if name == package else object())
    result = CliRunner().invoke(app, ["load", "scenarios"])
    assert isinstance(result.exception, StartError)
    assert package in str(result.exception)
    assert "pip install 'trunkline[load]'" in str(result.exception)
