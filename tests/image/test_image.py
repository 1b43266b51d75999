"""The product's image on a real daemon: what it may do, what it is made of, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.docker.daemon import DockerDaemon
from tests.support.patience import patient
from trunkline.version import __version__

pytestmark = pytest.mark.timeout(300)  # the first test may build the image

NOTHING = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=54321:54321")
"""No file to write, no capability, and a user whom the image does not know."""


@pytest.fixture(autouse=True)
def _no_container_is_left(docker: DockerDaemon) -> Iterator[None]:
    yield
    asyncio.run(docker.clear())


def inspected(docker: DockerDaemon, name: str, what: str) -> str:
    """A field of a container or image, as a template of Go names it."""
    return docker.docker("inspect", "--format", f"{{{{{what}}}}}", name).strip()


def until(docker: DockerDaemon, name: str, what: str, wanted: str, within_s: float = 20) -> None:
    """Wait until a field of a container has a value."""
    deadline = time.monotonic() + patient(within_s)
    while (found := inspected(docker, name, what)) != wanted:
        if time.monotonic() > deadline:
            health = docker.docker("inspect", "--format", "{{json .State}}", name)
            pytest.fail(f"{what} is {found}, not {wanted}: {health} {docker.docker('logs', name)}")
        time.sleep(0.1)


def printed(docker: DockerDaemon, image: str, *command: str) -> str:
    """What a program prints that runs in the image in Trunkline's place."""
    return docker.docker("run", "--rm", "--entrypoint", command[0], image, *command[1:])


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (("--env=PORT=4321",), ()),
        (("--init",), ("serve", "--port", "4322")),
        ((), ("balance", "--backend", "http://127.0.0.1:1", "--listen", "0.0.0.0:4323")),
    ],
    ids=["node by PORT", "node by option, below an init", "balancer"],
)
def test_healthy_with_no_right_at_all(
    docker: DockerDaemon, image: str, options: tuple[str, ...], command: tuple[str, ...]
) -> None:
    """Read-only, without a capability, as any user: it serves, and its health check finds the port that was chosen."""
    docker.docker("run", "--detach", "--name=one", "--health-interval=1s", *NOTHING, *options, image, *command)
    until(docker, "one", ".State.Health.Status", "healthy")
    probed = json.loads(inspected(docker, "one", "json .State.Health.Log"))[-1]
    assert (probed["ExitCode"], probed["Output"]) == (0, "alive\n")


def test_unhealthy_when_it_does_not_answer(docker: DockerDaemon, image: str) -> None:
    """A health check that asks elsewhere than the server listens fails, and says why."""
    check = ("--health-interval=1s", "--health-retries=1", "--health-start-period=1ms")
    docker.docker("run", "--detach", "--name=one", *check, "--health-cmd=trunkline health serve --port 1", image)
    until(docker, "one", ".State.Health.Status", "unhealthy")
    probed = json.loads(inspected(docker, "one", "json .State.Health.Log"))[-1]
    assert probed["Output"] == "trunkline: http://127.0.0.1:1/healthz does not answer: Connection refused\n"


async def test_sigterm_drains(docker: DockerDaemon, image: str) -> None:
    """`docker stop` moves every client with a goodbye and 1001; then the node ends with 0, long before it is killed."""
    drain = "--env=TRUNKLINE_SERVER_DRAIN_MS=500"
    docker.docker("run", "--detach", "--name=one", "--publish=3001:3001", "--health-interval=1s", drain, image)
    until(docker, "one", ".State.Health.Status", "healthy")
    async with docker.namespace.forwarded(3001) as port, aiohttp.ClientSession() as http:
        clients = [await http.ws_connect(f"http://127.0.0.1:{port}/ws") for _ in range(8)]
        for client in clients:
            await client.receive(timeout=patient(10))
        stopping = asyncio.create_task(asyncio.to_thread(docker.docker, "stop", "--time=30", "one"))
        for client in clients:
            told = []
            while (message := await client.receive(timeout=patient(10))).type is aiohttp.WSMsgType.TEXT:
                told.append(json.loads(message.data)["type"])
            assert told[-1] == "goodbye"
            assert client.close_code == 1001
        await stopping
    assert inspected(docker, "one", ".State.ExitCode") == "0"


def test_it_reads_its_settings_again(docker: DockerDaemon, image: str, tmp_path: Path) -> None:
    """By `docker kill`, and by a command in it, as in Kubernetes."""
    file = tmp_path / "trunkline.toml"
    file.write_text("")
    tmp_path.chmod(0o755)
    mount = f"--volume={tmp_path}:/settings:ro"
    docker.docker("run", "--detach", "--name=one", "--health-interval=1s", mount, *NOTHING, image,
                  "serve", "--config", "/settings/trunkline.toml")  # fmt: skip
    until(docker, "one", ".State.Health.Status", "healthy")
    for level, command in (
        ("debug", ("kill", "--signal=HUP", "one")),
        ("info", ("exec", "one", "sh", "-c", "kill -HUP 1")),
    ):
        file.write_text(f'[log]\nlevel = "{level}"\n')
        before = docker.docker("logs", "one").count('"settings_reloaded"')
        docker.docker(*command)
        deadline = time.monotonic() + patient(10)
        while docker.docker("logs", "one").count('"settings_reloaded"') == before:
            assert time.monotonic() < deadline, docker.docker("logs", "one")
            time.sleep(0.1)
    assert inspected(docker, "one", ".State.Running") == "true"


def test_a_wrong_setting_ends_it(docker: DockerDaemon, image: str) -> None:
    """With 2, and the line that says what would be right."""
    done = docker.try_docker("run", "--rm", "--env=PORT=http", image)
    assert done.returncode == 2
    assert "trunkline: setting server.port (environment PORT): 'http' cannot be used" in done.stderr


def test_commands_in_a_running_container(docker: DockerDaemon, image: str) -> None:
    """`docker exec` reaches the node by the token that it keeps in its own directory, also on a tmpfs."""
    state = "--tmpfs=/var/lib/trunkline:uid=10001,gid=10001,mode=0700"
    docker.docker("run", "--detach", "--name=one", "--read-only", state, "--health-interval=1s", image)
    until(docker, "one", ".State.Health.Status", "healthy")
    said = docker.docker("exec", "one", "trunkline", "publish", "public.news", "1")
    assert said.startswith("public.news: offset 1, epoch ")


def test_an_application_of_ones_own(docker: DockerDaemon, image: str) -> None:
    """A module in /app is found by its name, as the working directory's are anywhere else."""
    app = "from trunkline import App; app = App('shop')"
    derived = f'FROM {image}\nRUN echo "{app}" > shop.py\nCMD ["serve", "shop:app"]\n'
    docker.docker("build", "--quiet", "--tag=shop:1", "-", stdin=derived)
    docker.docker("run", "--detach", "--name=one", "--health-interval=1s", *NOTHING, "shop:1")
    until(docker, "one", ".State.Health.Status", "healthy")
    asked = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:3001/api/instance').read().decode())"
    assert json.loads(docker.docker("exec", "one", "python", "-c", asked))["app"] == "shop"


def test_what_is_in_it(docker: DockerDaemon, image: str) -> None:
    """Neither compiler nor source nor a cache of pip; of the layers, one has all that was installed."""
    found = printed(
        docker, image, "find", "/", "-xdev",
        *("-name", "gcc", "-o", "-name", "*.whl", "-o", "-path", "*/.cache/*", "-o", "-path", "/src"),
    )  # fmt: skip
    assert found == ""
    assert inspected(docker, image, ".Config.User") == "10001:10001"
    layers = docker.docker("history", "--no-trunc", "--format", "{{.Size}} {{.CreatedBy}}", image).splitlines()
    # The base, the compiled modules of its library, and /opt/trunkline.
    assert sum(not layer.startswith("0B ") for layer in layers) == 3


@pytest.mark.parametrize("module", ["trunkline.server.node.node", "trunkline.cli.probe", "trunkline.balancer.service"])
def test_nothing_is_compiled_at_a_start(docker: DockerDaemon, image: str, module: str) -> None:
    """Every module comes compiled, those of Python's library too: a container may not keep what it compiles."""
    verbose = docker.try_docker("run", "--rm", "--entrypoint=python", image, "-v", "-c", f"import {module}")
    loaded = re.findall(r"# code object from '?([^'\n]+)", verbose.stderr)
    assert len(loaded) > 20
    assert [name for name in loaded if not name.endswith(".pyc")] == []


def test_its_labels(docker: DockerDaemon, image: str) -> None:
    """Those of the OCI image specification; the version is that of the package."""
    labels = json.loads(inspected(docker, image, "json .Config.Labels"))
    names = ("title", "description", "licenses", "base.name", "version", "revision", "created", "source")
    assert {f"org.opencontainers.image.{name}" for name in names} <= set(labels)
    assert labels["org.opencontainers.image.version"] == __version__
    assert docker.docker("run", "--rm", image, "--version").strip() == __version__


def test_its_bill_of_materials(docker: DockerDaemon, image: str) -> None:
    """CycloneDX, made in the build: every distribution in the image with its version, and nothing else."""
    bill = json.loads(printed(docker, image, "cat", "/opt/trunkline/share/sbom.cdx.json"))
    listing = (
        "import importlib.metadata as m, json; "
        "print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions() if '/opt/' in str(d._path)]))"
    )
    installed = {tuple(pair) for pair in json.loads(printed(docker, image, "python", "-c", listing))}
    named = {(part["name"], part["version"]) for part in bill["components"]}
    root = bill["metadata"]["component"]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert named | {(root["name"], __version__)} == installed
    assert all(part["purl"].startswith("pkg:pypi/") for part in bill["components"])


def test_no_secret_gets_into_it(docker: DockerDaemon, image: str) -> None:
    """Its history and environment name no token, and hold no value of the machine that built it."""
    history = docker.docker("history", "--no-trunc", image).lower()
    environment = inspected(docker, image, "json .Config.Env").lower()
    for word in ("token", "secret", "passw", "private", "credential"):
        assert word not in history
        assert word not in environment
