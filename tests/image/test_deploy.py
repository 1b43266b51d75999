"""A deploy of which every part is a container of the one image: bus, nodes, balancer and the tool itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.support.docker.daemon import DockerDaemon
from tests.support.patience import patient

pytestmark = pytest.mark.timeout(300)

NETWORK = "fleet"
TOKEN = "a-token-of-the-tests-alone"
SHUT = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--network={NETWORK}")
SETTINGS = (
    "--env=TRUNKLINE_BUS_URL=nats://nats:4222", f"--env=TRUNKLINE_ADMIN_TOKEN={TOKEN}",
    "--env=TRUNKLINE_LIMITS_EXEMPT=0.0.0.0/0", "--env=TRUNKLINE_BALANCER_EXEMPT=0.0.0.0/0",
)  # fmt: skip
IN_A_BALANCER = ("--env=TRUNKLINE_BALANCER_ADMIN_HOST=0.0.0.0", "--tmpfs=/var/lib/trunkline:uid=10001,gid=10001")


@pytest.fixture
def fleet(docker: DockerDaemon, image: str) -> Iterator[None]:
    """NATS, two blue nodes, and a balancer before them."""
    docker.docker("network", "create", NETWORK)
    try:
        store = ("--tmpfs=/tmp/store:uid=10001,gid=10001", "--entrypoint=nats-server")
        docker.docker("run", "--detach", "--name=nats", *SHUT, *store, image, "--jetstream", "--store_dir=/tmp/store")
        for name in ("blue-1", "blue-2"):
            labels = ("--label=trunkline.colour=blue", "--env=TRUNKLINE_SERVER_COLOUR=blue")
            docker.docker("run", "--detach", f"--name={name}", *SHUT, *SETTINGS, *labels, image)
        docker.docker("run", "--detach", "--name=edge", *SHUT, *SETTINGS, *IN_A_BALANCER, image, "balance")
        deadline = time.monotonic() + patient(30)
        while docker.try_docker("exec", "edge", "trunkline", "health", "--ready").returncode:
            assert time.monotonic() < deadline, docker.docker("logs", "edge")
            time.sleep(0.2)
        yield
    finally:
        docker.docker("rm", "--force", "--volumes", *docker.docker("ps", "--all", "--quiet").split())
        docker.docker("network", "rm", NETWORK)


def test_blue_to_green_by_a_container(docker: DockerDaemon, image: str, fleet: None) -> None:
    """Clients move, the verdict passes, and two containers of the new image stand in the place of the old ones."""
    docker.docker("tag", image, "trunkline:next")
    load = ("load", "ws://edge:8080/ws", "--connections", "40", "--duration", "300s")
    docker.docker("run", "--detach", "--name=clients", f"--network={NETWORK}", image, *load)
    tool = (
        "--user=0", f"--network={NETWORK}", "--volume", f"{docker.root}/api.sock:/var/run/docker.sock", *SETTINGS,
    )  # fmt: skip
    deploy = (
        "deploy", "run", "green", "--runtime", "docker", "--image", "trunkline:next", "--yes", "--json",
        "--edge", "ws://edge:8080/ws", "--balancer", "http://edge:8081", "--witnesses", "5", "--over", "2s",
        "--verify", "1s", "--keep", "0s",
    )  # fmt: skip
    done = docker.try_docker("run", "--rm", *tool, image, *deploy, within_s=180)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    running = docker.docker("ps", "--format", '{{.Image}} {{.Label "trunkline.colour"}}').splitlines()
    assert running.count("trunkline:next green") == 2
    assert not [line for line in running if line.endswith("blue")]
    verdict = json.loads(done.stdout)
    assert verdict["passed"]
    assert re.match(r"lost 0 of [1-9]\d* to 5 witnesses; (\d+) of \1 moved clients came back", verdict["words"])
