"""The hosted workflows: every action pinned, every job with the least rights, and what they call is there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT

HOSTED = ROOT / ".github"
FILES = sorted((HOSTED / "workflows").glob("*.yml"))
ZIZMOR = Path(sys.executable).with_name("zizmor")

READ = {"contents": "read"}
RIGHTS: dict[str, dict[str, str]] = {
    "ci/linux": READ,
    "ci/macos": READ,
    "ci/coverage": READ,
    "audit/packages": READ,
    "audit/workflows": READ,
    "image/try": READ,
    "image/publish": {**READ, "attestations": "write", "id-token": "write", "packages": "write"},
    "release/tests": READ,
    "release/build": READ,
    "release/attest": {"attestations": "write", "id-token": "write"},
    "release/pypi": {"id-token": "write"},
    "release/image": {**READ, "attestations": "write", "id-token": "write", "packages": "write"},
    "release/page": {"contents": "write"},
}
"""What each job may do: a right that is added is added here too, by somebody who thought about it."""


def loaded(path: Path) -> dict[str, Any]:
    """A workflow; YAML 1.1 reads its key `on` as true."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


WORKFLOWS = {path.stem: loaded(path) for path in FILES}
JOBS = {f"{name}/{job}": it for name, workflow in WORKFLOWS.items() for job, it in workflow["jobs"].items()}


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job.get("steps", ()))


def commands() -> Iterator[str]:
    """Everything that a step runs."""
    for job in JOBS.values():
        yield from (step["run"] for step in steps(job) if "run" in step)


def test_every_action_is_pinned_by_its_commit() -> None:
    """With the release beside it, one for each action: a tag can be moved to other code, a commit cannot."""
    pins: dict[str, set[str]] = {}
    for path in FILES:
        for line in re.findall(r"^.*\buses: .*$", path.read_text(), re.MULTILINE):
            if re.search(r"uses: \./\.github/workflows/\w+\.yml$", line):
                continue
            pin = re.search(r"uses: ([\w.-]+/[\w./-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)$", line)
            assert pin, f"{path.name}: {line.strip()}"
            pins.setdefault(pin[1], set()).add(pin[2])
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}
    assert "actions/checkout" in pins


def test_every_job_has_the_least_rights() -> None:
    """A workflow grants nothing; each job has what the table says."""
    assert {name: workflow["permissions"] for name, workflow in WORKFLOWS.items() if workflow["permissions"]} == {}
    assert {name: job.get("permissions") for name, job in JOBS.items()} == RIGHTS


def test_a_called_workflow_gets_the_rights_of_its_jobs() -> None:
    """GitHub refuses to start it otherwise."""
    for name, job in JOBS.items():
        if "uses" in job:
            called = Path(job["uses"]).stem
            needed = {
                right for each, other in RIGHTS.items() if each.startswith(f"{called}/") for right in other.items()
            }
            assert needed == set(RIGHTS[name].items())
            assert "workflow_call" in WORKFLOWS[called]["on"]
            assert "secrets" not in job


def test_nothing_runs_code_of_a_stranger_with_rights() -> None:
    """No pull request of a fork runs with secrets, and no text from outside becomes a part of a script."""
    for workflow in WORKFLOWS.values():
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow["on"])
    for path in FILES:
        assert not re.search(r"secrets\.", path.read_text()), f"{path.name}: the identity of the job does it"
    for command in commands():
        assert "${{" not in command, f"hand it over by env: {command}"
    for job in JOBS.values():
        for step in steps(job):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_only_a_tag_publishes() -> None:
    """What may write is reached by release.yml alone, which runs for tags alone, after all tests."""
    assert WORKFLOWS["release"]["on"] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    assert JOBS["image/publish"]["if"] == "github.event_name == 'push' && startsWith(github.ref, 'refs/tags/v')"
    assert set(WORKFLOWS["image"]["on"]) == {"pull_request", "workflow_call"}
    jobs = WORKFLOWS["release"]["jobs"]

    def before(job: str) -> set[str]:
        direct = set(jobs[job].get("needs", ()))
        return direct.union(*(before(each) for each in direct))

    for job in ("attest", "pypi", "image", "page"):
        assert {"tests", "build"} <= before(job)
    assert jobs["pypi"]["environment"] == "pypi"


def test_what_the_steps_call_is_there() -> None:
    """Files of this repository, and targets of the Makefile; each job has an end."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        for path in re.findall(r"(?:^|\s)((?:\.ci|\.github|tools)/[\w./-]+)", command):
            assert (ROOT / path).exists(), path
        for words in re.findall(r"^make (.+)$", command, re.MULTILINE):
            assert set(words.split()) <= targets
    for name, job in JOBS.items():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 60, name


@pytest.mark.parametrize("name", ["build", "audit"])
def test_tools_are_pinned_by_hash(name: str) -> None:
    """What builds a release, or sees all of it, is the file that was looked at; each that is asked for is there."""
    folder = HOSTED / "requirements"
    text = (folder / f"{name}.txt").read_text()
    pinned = {}
    for requirement in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        found = re.match(r"([a-z0-9._-]+)==\S+ \\\n((?:\s+--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", requirement)
        assert found, requirement
        pinned[found[1]] = found[2]
    asked = [line for line in (folder / f"{name}.in").read_text().splitlines() if not line.startswith("#")]
    assert set(asked) <= pinned.keys()


def test_updates_come_for_everything_that_is_pinned() -> None:
    """Actions, packages, the image's base, images of the stack; with some days between a release and its update."""
    updates = yaml.safe_load((HOSTED / "dependabot.yml").read_text())["updates"]
    places = {
        (update["package-ecosystem"], place)
        for update in updates
        for place in update.get("directories", [update.get("directory")])
    }
    assert places == {
        ("github-actions", "/"), ("pip", "/"), ("pip", "/.github/requirements"), ("docker", "/"),
        ("docker-compose", "/deploy/compose"),
    }  # fmt: skip
    for _, place in places:
        assert (ROOT / place.lstrip("/")).is_dir()
    for update in updates:
        assert update["cooldown"]["default-days"] >= 7


@pytest.mark.process
@pytest.mark.skipif(not ZIZMOR.exists(), reason="zizmor is not installed")
def test_an_independent_check_finds_nothing() -> None:
    """Shape of all files, injections, rights, caches that could be poisoned."""
    done = subprocess.run(
        [ZIZMOR, "--offline", "--strict-collection", "--min-severity=medium", "--no-progress", "--color=never", HOSTED],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
