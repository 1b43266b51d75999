"""What a build is handed of the checkout, and what the Dockerfile promises without being built."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

from tests.support import ROOT
from tests.support.docker.daemon import DockerDaemon
from trunkline.version import __version__

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_lies_in_a_checkout_stays_there(docker: DockerDaemon, bases: tuple[str, str], tmp_path: Path) -> None:
    """History, settings, keys and caches are not sent to the daemon; what the package is built from is."""
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    (tmp_path / "Dockerfile").write_text(f"FROM {bases[0]}\nCOPY . /all\n")
    wanted = {"pyproject.toml", "README.md", "LICENSE", "src/trunkline/version.py"}
    private = {
        ".env", ".git/config", "trunkline.toml", "secrets/admin_token", "compose.override.yaml", ".trunkline/nats.conf",
        ".venv/bin/python", "key.pem", "src/trunkline/__pycache__/version.pyc", "src/.env", "src/trunkline/server.key",
    }  # fmt: skip
    for name in wanted | private:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    docker.docker("build", "--quiet", "--tag=context:1", tmp_path)
    found = docker.docker("run", "--rm", "--entrypoint=find", "context:1", "/all", "-type", "f").split()
    assert {name.removeprefix("/all/") for name in found} == wanted


def test_the_default_base_is_a_stock_one() -> None:
    """A slim Python of the official image; another one needs no change of the file."""
    assert re.search(r"^ARG PYTHON=docker\.io/library/python:3\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BUILDER}", "${PYTHON}"]


def test_nothing_is_fetched_that_is_not_pinned() -> None:
    """No frontend of another origin, no file from an address, no package of the system."""
    assert "# syntax" not in DOCKERFILE
    assert not re.search(r"^ADD|curl|wget|apt-get", DOCKERFILE, re.MULTILINE)


def test_the_version_is_the_packages() -> None:
    """A build without arguments labels the image with the version that it installs."""
    assert f"\nARG VERSION={__version__}\n" in DOCKERFILE


def test_all_commands_have_what_they_need() -> None:
    """Every extra is installed, but Traefik, which has an image of its own, and what developers use."""
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) == set(declared) - {"traefik", "dev"}
