"""The script that deploys and keeps the verdict as files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import ROOT

SCRIPT = ROOT / "scripts" / "blue-green-deploy.sh"


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script with a tool that prints its arguments and exits with 3."""
    tool = folder / "tool"
    tool.write_text("#!/bin/sh\nprintf '%s|' \"$@\"\nexit 3\n")
    tool.chmod(0o700)
    return subprocess.run(
        ["sh", str(SCRIPT), *arguments], cwd=folder, env={"PATH": "/usr/bin:/bin", "TRUNKLINE": str(tool)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_is_one_command_and_ends_as_that(tmp_path: Path) -> None:
    """Without a question, with the verdict as files, and with the options that were given."""
    found = ran(tmp_path, "green", "--app", "a shop:app")
    assert found.returncode == 3
    assert found.stdout == "deploy|run|green|--yes|--html|deploy-green.html|--junit|deploy-green.xml|--app|a shop:app|"


def test_without_a_colour_it_says_how_it_is_used(tmp_path: Path) -> None:
    """Nothing is run."""
    found = ran(tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("usage: ")
