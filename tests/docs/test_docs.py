"""What the documents say is so: the reference is made from the code, and links and code samples hold."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_reference_is_up_to_date() -> None:
    """docs/reference.md is what its generator makes of the code as it is now."""
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["render"]()
    assert (ROOT / "docs" / "reference.md").read_text() == made, "run: python docs/make_reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "application.md"], ids=lambda page: page.name)
def test_python_samples_run(page: Path, tmp_path: Path) -> None:
    """The first Python sample of a page is a module that makes an app with endpoints; later ones build on it."""
    from trunkline import App

    sources = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    module = tmp_path / "sample.py"
    module.write_text("\n".join(sources))
    found = runpy.run_path(str(module))
    app = found["app"]
    assert isinstance(app, App)
    assert app.declarations
    assert sys.modules.get("sample") is None


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_named_sources_exist(name: str) -> None:
    """A module that a guide names with its path is there."""
    text = (ROOT / name).read_text()
    for path in re.findall(r"`(?:src/trunkline/)?([a-z_0-9/]+/[a-z_0-9]*\.(?:py|js))`", text):
        assert (ROOT / "src" / "trunkline" / path).exists() or (ROOT / path).exists(), f"{name} names {path}"
    for room in re.findall(r"^\| `([a-z]+)/`", text, re.MULTILINE):
        assert (ROOT / "src" / "trunkline" / room).is_dir(), f"{name} names {room}/"
