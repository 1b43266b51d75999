"""An interpreter with the previous release of Trunkline, made of this repository's history."""

from __future__ import annotations

import io
import subprocess
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PREVIOUS = "db0f32aff589eb829a672867615d1a3a449a7e79"
"""The last commit whose nodes know nothing of deploys; nothing was released before."""


def previous_python(folder: Path) -> Path:
    """An interpreter in `folder` that imports the previous release, and everything else from the running one.

    It has the package as a wheel installs it. Skips the test where the history is not there, as in a shallow clone.
    """
    archive = ["git", "-C", str(REPOSITORY), "archive", "--format=tar", PREVIOUS, "src/trunkline"]
    try:
        made = subprocess.run(archive, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("the previous release comes from the history, and there is no git")
    if made.returncode:
        pytest.skip(f"the previous release is not in the history here: {made.stderr.decode().strip()}")
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as files:
        files.extractall(folder, filter="data")
    (folder / "src" / "trunkline").rename(packages / "trunkline")
    # Behind its own: so the running release, if it is installed there, does not come first.
    (packages / "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"
