"""`trunkline doctor` in a container of the image: it finds the container's limits, and says how to set them."""

from __future__ import annotations

import json

import pytest

from tests.support.docker.daemon import DockerDaemon

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]  # the first test may build the image


def test_limits_of_a_container_are_found(docker: DockerDaemon, image: str) -> None:
    """Open files, memory, processors, sysctls; with a read-only root, and nobody's rights."""
    limits = ("--ulimit=nofile=1024", "--memory=512m", "--cpus=0.5", "--sysctl=net.core.somaxconn=128")
    printed = docker.docker(
        "run", "--rm", "--read-only", "--cap-drop=ALL", *limits, "--entrypoint=sh", image, "-c",
        "trunkline doctor --json --role node; echo $?",
    )  # fmt: skip
    text, _, code = printed.strip().rpartition("\n")
    report = json.loads(text)
    found = {each["check"]: each for each in report["findings"]}
    assert (code, report["machine"]["place"]) == ("1", "container")
    for check, state, says, do in (
        ("open files", "error", "1,024", "ulimits: nofile: 65536"),
        ("memory limit", "error", "512 MiB: a node takes 2,184", "mem_limit: 1886m"),
        ("processors", "warning", "0.5", "cpus: 1"),
        ("listen queue", "warning", "128", "net.core.somaxconn=4096 (Compose"),
    ):
        assert (found[check]["state"], says in found[check]["found"], do in found[check]["do"]) == (
            state,
            True,
            True,
        ), found[check]
