"""Custom resources against the published types of their definitions, unknown fields included.

kubernetes-validate knows no custom resources. The types of the packages below are made from the definitions of Traefik
and of Prometheus's operator, and TypeScript refuses a field that a type does not have, so one run of its compiler
checks all. `make test` installs them; tests download nothing.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.manifests.objects import Object

CUSTOM_GROUPS = {
    "traefik.io": "@kubernetes-models/traefik",
    "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
}
"""Groups of custom resources, and the package that has their types."""


def complaints(objects: Sequence[Object]) -> list[str]:
    """What the compiler says of the objects, a line each; skips the test where the packages cannot be had."""
    place = _packages()
    with tempfile.TemporaryDirectory(dir=place) as directory:
        file = Path(directory) / "objects.ts"
        file.write_text("".join(_constant(number, each) for number, each in enumerate(objects)))
        (Path(directory) / "package.json").write_text('{"type": "module"}')
        done = subprocess.run(
            [
                "node", str(place / "node_modules/typescript/bin/tsc"), "--noEmit", "--strict", "--skipLibCheck",
                "--module", "nodenext", "--target", "es2022", str(file),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = [line for line in done.stdout.splitlines() if "error" in line]
    assert found or done.returncode == 0, done.stdout + done.stderr
    return found


def _constant(number: int, each: Object) -> str:
    group, _, version = each["apiVersion"].partition("/")
    kind = each["kind"]
    module = f"{CUSTOM_GROUPS[group]}/{group}/{version}/{kind}"
    known = f'import type {{ I{kind} as T{number} }} from "{module}";'
    return f"{known}\nexport const o{number}: T{number} = {json.dumps(each)};\n"


@functools.cache
def _packages() -> Path:
    place = Path(sys.prefix) / "share" / "trunkline-tests" / "types-1"
    if not (place / "node_modules" / "typescript").exists():
        pytest.skip("the types of custom resources are not installed: `make test` does it, by npm")
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    return place
