"""The product's image on a daemon of the tests: built once from the checkout's Dockerfile, then loaded from a file."""

from __future__ import annotations

from typing import Final

from tests.support import ROOT
from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.python_base import BUILDER, PYTHON, add_bases, cached

IMAGE: Final = "trunkline:test"

_SOURCES: Final = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")


def add_image(daemon: DockerDaemon) -> str:
    """Give a daemon the product's image, named `IMAGE`; raises CannotRun.

    RuntimeError, which fails the tests, when containers run and the Dockerfile does not build.
    """
    with cached("image", *_made_from()) as (tar, there):
        if there:
            daemon.docker("load", "--input", tar, within_s=120)
            daemon.try_container(IMAGE)
        else:
            add_bases(daemon)
            build(daemon, IMAGE)
            daemon.docker("save", "--output", tar, IMAGE, within_s=120)
    return IMAGE


def build(daemon: DockerDaemon, tag: str, *options: str) -> str:
    """Build the Dockerfile of the checkout from the local bases; what the build printed.

    Args:
        daemon: has the bases.
        tag: the image's name.
        options: further ones of `docker build`.
    """
    bases = ("--build-arg", f"PYTHON={PYTHON}", "--build-arg", f"BUILDER={BUILDER}")
    return daemon.docker("build", "--progress=plain", *bases, *options, "--tag", tag, ROOT, within_s=300)


def _made_from() -> list[str]:
    """The content of all that the image is built from."""
    files = [ROOT / name for name in _SOURCES]
    files += sorted(each for each in (ROOT / "src").rglob("*") if each.is_file() and "__pycache__" not in each.parts)
    return [f"{each.relative_to(ROOT)}\0{each.read_bytes().hex()}" for each in files]
