"""Makes a release: version, changelog, sdist, wheel, commit and tag. See RELEASE.md.

    python tools/release.py 0.2.0            makes it, on a clean main
    python tools/release.py --build 0.2.0    builds the files of a release that is tagged, into dist/
    python tools/release.py --notes 0.2.0    prints its part of the changelog

The last two are for the hosted workflow. Everything that can fail is checked or built before the commit; a failure puts
the two edited files back.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
VERSION_FILE: Final = ROOT / "src" / "trunkline" / "version.py"
CHANGELOG: Final = ROOT / "CHANGELOG.md"
MUST_HOLD: Final = ("trunkline/py.typed", "trunkline/static/trunkline.js", "trunkline/traefik/check/known_fields.txt")


class CannotRelease(Exception):
    """Why there is no release; the text says what to do."""


def git(*arguments: str) -> str:
    """Output of a git command in this checkout; raises CalledProcessError."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def parsed(version: str) -> tuple[int, int, int]:
    """The three numbers of a version; raises CannotRelease."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    if match is None:
        raise CannotRelease(f"{version!r} is not a version; use three numbers such as 0.2.0")
    return int(match[1]), int(match[2]), int(match[3])


def check(version: str) -> None:
    """Refuse what must not be released; raises CannotRelease."""
    wanted = parsed(version)
    if git("status", "--porcelain"):
        raise CannotRelease("the working tree is not clean; commit or stash first")
    if (branch := git("branch", "--show-current")) != "main":
        raise CannotRelease(f"this is branch {branch!r}; releases are made on main")
    released = [parsed(tag[1:]) for tag in git("tag", "--list", "v*.*.*").split()]
    if released and wanted <= max(released):
        raise CannotRelease(f"{version} is not above the last release {'.'.join(map(str, max(released)))}")
    section = re.search(rf"^## {re.escape(version)} — unreleased\n(.*?)(?=^## |\Z)", CHANGELOG.read_text(), re.M | re.S)
    if section is None or "\n- " not in section[1]:
        raise CannotRelease(f"CHANGELOG.md has no section '## {version} — unreleased' with a line in it")


def write_version(version: str, today: datetime.date) -> None:
    """Set the version and the date of its section in the changelog."""
    source = VERSION_FILE.read_text()
    VERSION_FILE.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', source))
    CHANGELOG.write_text(CHANGELOG.read_text().replace(f"## {version} — unreleased", f"## {version} — {today}"))


def build(version: str) -> list[Path]:
    """Build the sdist and from it the wheel, and look into both; raises CannotRelease or CalledProcessError."""
    dist = ROOT / "dist"
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist)], cwd=ROOT, check=True)
    wheel, sdist = dist / f"trunkline-{version}-py3-none-any.whl", dist / f"trunkline-{version}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/src/")[2] for name in archive.getnames()}
    for name in MUST_HOLD:
        if name not in held or name not in sources:
            raise CannotRelease(f"{name} is missing from the wheel or the sdist")
    return [sdist, wheel]


def build_tagged(version: str) -> list[Path]:
    """Build the files of the release that this checkout is at; raises CannotRelease."""
    parsed(version)
    held = re.search(r'(?m)^__version__ = "(.*)"$', VERSION_FILE.read_text())
    if held is None or held[1] != version:
        raise CannotRelease(f"this checkout is version {held[1] if held else 'unknown'}, not {version}; tag its commit")
    return build(version)


def notes(version: str) -> str:
    """What the changelog says of a release; raises CannotRelease."""
    found = re.search(rf"^## {re.escape(version)} — [^\n]*\n(.*?)(?=^## |\Z)", CHANGELOG.read_text(), re.M | re.S)
    if found is None or not found[1].strip():
        raise CannotRelease(f"CHANGELOG.md has no section for {version}")
    return found[1].strip()


def release(version: str) -> list[Path]:
    """Make a release and return its files; raises CannotRelease."""
    check(version)
    before = {path: path.read_text() for path in (VERSION_FILE, CHANGELOG)}
    try:
        write_version(version, datetime.datetime.now(datetime.UTC).date())
        files = build(version)
    except BaseException:
        for path, text in before.items():
            path.write_text(text)
        raise
    git("commit", "--quiet", "--all", "--message", f"Release {version}")
    git("tag", "--annotate", f"v{version}", "--message", f"Release {version}")
    return files


def main() -> int:
    """Entry point; the exit code is 2 for bad usage, 1 for a release that cannot be made."""
    match sys.argv[1:]:
        case [version] if not version.startswith("-"):
            carry_out = release
        case ["--build", version]:
            carry_out = build_tagged
        case ["--notes", version]:
            carry_out = None
        case _:
            print("usage: python tools/release.py [--build|--notes] VERSION", file=sys.stderr)
            return 2
    try:
        if carry_out is None:
            print(notes(version))
            return 0
        files = carry_out(version)
    except CannotRelease as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(
            f"release: {' '.join(map(str, error.cmd))} ended with {error.returncode}\n{error.stderr or ''}",
            file=sys.stderr,
        )
        return 1
    for path in files:
        print(path)
    if carry_out is release:
        print(f"tagged v{version}; to publish: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main())
