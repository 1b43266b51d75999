"""docs/compose.md: its commands are run from the top to the bottom, on one stack."""

from __future__ import annotations

import re
import time

import pytest

from tests.support import ROOT
from tests.support.compose.stack import Stack
from tests.support.patience import patient

PAGE = (ROOT / "docs" / "compose.md").read_text()
BLOCKS = re.findall(r"(?:<!-- (not run: [^\n]+) -->\n)?```sh\n(.*?)```", PAGE, re.DOTALL)

JOBS = {"trunkline-node", "trunkline-balancer", "traefik", "postgres", "node", "alertmanager", "prometheus"}
"""What Prometheus can ask here."""


@pytest.mark.timeout(900)  # 180 s where eight others are at work; a hosted machine may be slower
def test_every_command_of_the_page_works(stack: Stack) -> None:
    """Each block is a script of which no command fails: 200 clients, a deploy that loses nothing, a clean start.

    It is slow, because it starts the stack and has a whole deploy in it.
    """
    for why, block in BLOCKS:
        if why:
            continue
        printed = stack.sh(block, within_s=240)
        if "deploy run" in block:
            assert "0 lost, 0 duplicates, 0 reordered, 0 dropped with a gap" in printed
            assert "blue -> green, version 2: passed" in printed
        elif "up -d" in block and "/health" in block:
            healthy = stack.sh("docker compose ps --format '{{.Service}} {{.Health}}'").splitlines()
            assert {line.split()[1] for line in healthy} == {"healthy"}, healthy
        elif "api/v1/targets" in block:
            _wait_for_targets(stack)
    assert stack.sh("docker ps --all --quiet") == ""
    assert "trunkline_" not in stack.sh("docker volume ls --quiet")


def test_little_is_not_run() -> None:
    """Only what needs an image that cannot be had."""
    assert [why for why, _ in BLOCKS if why] == [
        "not run: Grafana's image cannot be had there",
        "not run: Elasticsearch's images cannot be had there",
    ]


def _wait_for_targets(stack: Stack) -> None:
    deadline = time.monotonic() + patient(60)
    while True:
        found = stack.json("curl -sS http://localhost:9091/api/v1/targets")["data"]["activeTargets"]
        reached = {each["labels"]["job"] for each in found if each["health"] == "up"}
        if reached >= JOBS:
            return
        assert time.monotonic() < deadline, f"Prometheus does not reach {JOBS - reached}"
        time.sleep(0.5)
