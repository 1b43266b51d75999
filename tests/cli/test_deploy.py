"""`trunkline deploy` where it cannot begin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import environment

_WITHOUT = """
import runpy, sys
sys.modules.update(picows=None, hdrh=None)
runpy.run_module("trunkline", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "command", [("run", "green"), ("status",), ("resume",), ("rollback",), ("abort",), ("history",), ("verdict",)]
)
def test_without_the_load_tester(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Every command names what to install, in one line."""
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT, "deploy", *command],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stderr.endswith("pip install 'trunkline[load]'\n"), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.returncode != 0
