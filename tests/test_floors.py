"""The floors hold, and an import that breaks one fails with the two names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("importlinter", reason="import-linter is not installed")


def lint(root: Path) -> tuple[int, str]:
    """Exit code and output of the import contracts over a copy of the sources."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=root, env={"PYTHONPATH": str(root / "src"), "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and the contracts, to be spoiled."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "names"),
    [
        ("bus/memory.py", "from trunkline.server.node import node", ("trunkline.bus", "trunkline.server")),
        ("load/run.py", "import trunkline.websocket.frames", ("trunkline.load", "trunkline.websocket")),
        ("server/node/node.py", "import trunkline.balancer.core", ("trunkline.server", "trunkline.balancer")),
        ("protocol/wire.py", "import trunkline.settings.types", ("trunkline.protocol", "trunkline.settings")),
        ("errors.py", "from trunkline.protocol import wire", ("trunkline.errors", "trunkline.protocol")),
    ],
)
def test_a_broken_floor_is_named(copy: Path, file: str, line: str, names: tuple[str, str]) -> None:
    """Upwards, sideways, and what a peer may not share; an import for types alone counts as well."""
    path = copy / "src" / "trunkline" / file
    spoiled = f"\n\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {line}\n"
    path.write_text(path.read_text() + spoiled)
    code, output = lint(copy)
    assert code == 1, output
    for name in names:
        assert name in output


def test_a_circle_is_named(copy: Path) -> None:
    """Two modules of one room may not import each other."""
    for one, other in (("types", "monitor"), ("monitor", "types")):
        path = copy / "src" / "trunkline" / "settings" / f"{one}.py"
        path.write_text(path.read_text() + f"\n\nimport trunkline.settings.{other}\n")
    code, output = lint(copy)
    assert code == 1
    assert "No cycles are allowed in trunkline.settings" in output
