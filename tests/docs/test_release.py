"""`make release` makes a wheel, an sdist and a tag, or says why not and leaves the checkout as it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("build", reason="the package build is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what a release reads, on main, with an unreleased section in its changelog."""
    copy = tmp_path / "checkout"
    for name in ("src", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 99.1.0 — unreleased\n\n- News.\n\n## 0.0.1 — 2020-01-01\n\n- Old.\n"
    )
    git(copy, "init", "--quiet", "--initial-branch", "main")
    for key, value in (("user.name", "Releaser"), ("user.email", "releaser@example.org")):
        git(copy, "config", key, value)
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "Begin")
    return copy


def git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()


def release(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/release.py", *arguments], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_a_release_has_wheel_sdist_and_tag(checkout: Path) -> None:
    """One command does it; the version it wrote is the one in the wheel; the same version is refused afterwards.

    Built again from the tag, as the hosted workflow does, both files are the same byte by byte.
    """
    done = release(checkout, "99.1.0")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (checkout / "dist").iterdir()} == {
        "trunkline-99.1.0-py3-none-any.whl",
        "trunkline-99.1.0.tar.gz",
    }
    assert git(checkout, "tag") == "v99.1.0"
    assert git(checkout, "status", "--porcelain") == ""
    assert '__version__ = "99.1.0"' in (checkout / "src/trunkline/version.py").read_text()
    assert "unreleased" not in (checkout / "CHANGELOG.md").read_text()
    again = release(checkout, "99.1.0")
    assert again.returncode == 1
    assert "not above the last release 99.1.0" in again.stderr

    first = {path.name: path.read_bytes() for path in (checkout / "dist").iterdir()}
    shutil.rmtree(checkout / "dist")
    built = release(checkout, "--build", "99.1.0")
    assert built.returncode == 0, built.stderr
    assert {path.name: path.read_bytes() for path in (checkout / "dist").iterdir()} == first


@pytest.mark.parametrize(
    ("version", "spoil", "why"),
    [
        ("99.1", "", "not a version"),
        ("99.2.0", "", "no section '## 99.2.0 — unreleased'"),
        ("99.1.0", "dirty", "not clean"),
        ("99.1.0", "branch", "made on main"),
    ],
)
def test_what_must_not_be_released_is_refused(checkout: Path, version: str, spoil: str, why: str) -> None:
    """The reason is named and nothing has changed."""
    if spoil == "dirty":
        (checkout / "README.md").write_text("changed")
    if spoil == "branch":
        git(checkout, "checkout", "--quiet", "-b", "feature")
    before = git(checkout, "status", "--porcelain"), git(checkout, "rev-parse", "HEAD")
    done = release(checkout, version)
    assert done.returncode == 1
    assert why in done.stderr
    assert (git(checkout, "status", "--porcelain"), git(checkout, "rev-parse", "HEAD")) == before
    assert git(checkout, "tag") == ""


def test_a_build_that_fails_changes_nothing(checkout: Path) -> None:
    """The version and the changelog are put back."""
    (checkout / "src/trunkline/py.typed").unlink()
    git(checkout, "commit", "--quiet", "--all", "--message", "Lose the type marker")
    done = release(checkout, "99.1.0")
    assert done.returncode == 1
    assert "py.typed is missing" in done.stderr
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "tag") == ""


def test_a_tag_that_is_no_release_builds_nothing(checkout: Path) -> None:
    """Its commit has another version than its name says."""
    done = release(checkout, "--build", "99.1.0")
    assert done.returncode == 1
    assert "not 99.1.0; tag its commit" in done.stderr
    assert not (checkout / "dist").exists()


def test_notes_are_the_part_of_the_changelog(checkout: Path) -> None:
    """Without those of other releases; a version that is not in it is refused."""
    assert release(checkout, "--notes", "0.0.1").stdout == "- Old.\n"
    missing = release(checkout, "--notes", "0.0.2")
    assert (missing.returncode, "no section for 0.0.2" in missing.stderr) == (1, True)
