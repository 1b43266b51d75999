"""The nats-server child process: ready, private, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.patience import patient
from tests.support.server.bus_probe import until
from trunkline.errors import StartError
from trunkline.fleet.children.nats_server import NatsServer, find_binary


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def test_ready_means_that_it_answers(store: Path) -> None:
    """When `start` returns the port answers, and after `stop` the process is gone and the port is free."""
    server = await NatsServer.start(store)
    with socket.create_connection(("127.0.0.1", server.port), timeout=patient(2)) as connection:
        assert connection.recv(5) == b"INFO "
    assert server.running
    await server.stop()
    await server.stop()
    assert not psutil.pid_exists(server.pid)
    again = await NatsServer.start(store, port=server.port)
    assert again.port == server.port
    await again.stop()


async def test_configuration_is_private(store: Path) -> None:
    """The file that may hold a token is readable by its user only, also when it was not before."""
    store.mkdir()
    (store / "nats.conf").write_text("")
    (store / "nats.conf").chmod(0o644)
    server = await NatsServer.start(store, token="s3cret")
    assert stat.S_IMODE((store / "nats.conf").stat().st_mode) == 0o600
    assert "s3cret" not in " ".join(psutil.Process(server.pid).cmdline())
    await server.stop()


async def test_taken_port_is_named(store: Path, tmp_path: Path) -> None:
    """A port that is in use stops the start with its number and the next step."""
    server = await NatsServer.start(store)
    with pytest.raises(StartError, match=f"port {server.port} on 127.0.0.1 is taken"):
        await NatsServer.start(tmp_path / "other", port=server.port)
    await server.stop()


async def test_store_in_use_is_refused(store: Path) -> None:
    """A second server on the same store is refused before it can write."""
    server = await NatsServer.start(store)
    with pytest.raises(StartError, match="in use"):
        await NatsServer.start(store)
    await server.stop()


async def test_missing_program_is_named(store: Path, tmp_path: Path) -> None:
    """A program that is not there stops the start with its path, and the store can be used afterwards."""
    with pytest.raises(StartError, match="cannot be run"):
        await NatsServer.start(store, binary=tmp_path / "nowhere")
    server = await NatsServer.start(store)
    await server.stop()


async def test_last_lines_are_passed_on(store: Path) -> None:
    """A server that ends while it starts is reported with what it said."""
    with pytest.raises(StartError, match=r"Its last lines: .*"):
        await NatsServer.start(store, host="not.an.address.invalid")


async def test_paths_with_odd_characters(tmp_path: Path) -> None:
    """Spaces, quotes and other letters in the store's path do no harm."""
    server = await NatsServer.start(tmp_path / 'a "b" $c é')
    await server.stop()
    assert (tmp_path / 'a "b" $c é' / "jetstream").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_dies_with_its_parent(store: Path) -> None:
    """When the parent is killed, the server ends too."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from trunkline.fleet.children.nats_server import NatsServer\n"
        "async def main():\n"
        "    server = await NatsServer.start(pathlib.Path(sys.argv[1]))\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(store), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    child = psutil.Process(pid)
    assert child.is_running()
    parent.kill()
    await parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_program_is_found() -> None:
    """The program that came with the package is found and can be run."""
    assert os.access(find_binary(), os.X_OK)
