"""The daemon of the tests itself: apart from the machine, reached through a port, and gone when its run is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.support import ROOT
from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.namespace import CannotRun, Namespace
from tests.support.patience import patient

HELD = """
import time
from tests.support.docker.daemon import DockerDaemon
daemon = DockerDaemon()
daemon.start()
print(daemon.root, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def namespace() -> Namespace:
    try:
        return Namespace()
    except CannotRun as why:
        pytest.skip(str(why))


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_a_namespace_of_its_own(namespace: Namespace) -> None:
    """What listens inside is unknown to the machine, and reached by a port that is forwarded."""
    listing = subprocess.run(
        namespace.inside("cat", "/proc/net/dev"), text=True, capture_output=True, check=True
    ).stdout
    assert [line.split(":")[0].strip() for line in listing.splitlines()[2:]] == ["lo"]
    serve = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "8123", "--directory", "tests/image"]
    server = subprocess.Popen(namespace.inside(*serve), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    assert b"8123" in server.stdout.readline()
    async with (
        namespace.forwarded(8123) as port,
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/{Path(__file__).name}") as answer,
    ):
        assert (await answer.text()).startswith('"""The daemon of the tests itself')
    server.terminate()  # the program has the id, not what led it inside
    assert server.wait(patient(5)) == -15
    with pytest.raises(OSError, match="refused"):
        namespace.connect("127.0.0.1", 8123)
    namespace.end()


def test_a_killed_run_leaves_nothing(docker: DockerDaemon) -> None:
    """Processes end with it; its directory is removed by the next daemon that is made."""
    run = subprocess.Popen([sys.executable, "-c", HELD], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    root = run.stdout.readline().strip()
    started = [process for process in psutil.process_iter() if root in " ".join(command_of(process))]
    assert len(started) >= 2  # dockerd and its containerd
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(started, patient(10))
    assert alive == []
    assert Path(root).exists()
    left = DockerDaemon()
    left.remove()
    assert not Path(root).exists()
    assert docker.root.exists()


def test_a_machine_where_containers_cannot_run_is_named(docker: DockerDaemon, bases: tuple[str, str]) -> None:
    """The reason to skip is what the daemon said."""
    broken = docker.docker("build", "--quiet", "-", stdin=f"FROM {bases[0]}\nRUN rm /bin/sh\n").strip()
    with pytest.raises(CannotRun, match=r"(?s)no container can: .*/bin/sh"):
        docker.try_container(broken)
    docker.try_container(bases[0])
