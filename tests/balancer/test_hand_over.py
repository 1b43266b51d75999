"""A balancer's restart: no client is refused, ports are free at once, and only its own user can take it over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.support.balancer.balance_process import Command, ForeignBackend, close_all, connect_many, overview
from tests.support.environment import environment
from tests.support.free_ports import free_port
from tests.support.patience import patient
from trunkline.balancer.hand_over import Offer, take_over
from trunkline.errors import StartError
from trunkline.net.admin.kept import kept_token
from trunkline.net.admin.tokens import AdminTokens
from trunkline.settings.balancer import BalancerSettings

Start = Callable[..., Awaitable[Command]]
LONG_DRAIN = {"TRUNKLINE_BALANCER_DRAIN_MS": "60000"}


class Place:
    """Ports on which one balancer after the other runs."""

    def __init__(self, start_command: Start, backends: list[ForeignBackend]) -> None:
        self.port, self.admin = free_port(), free_port()
        self._start = start_command
        self._backends = backends

    async def command(self, *arguments: str, **environ: str) -> Command:
        named = [word for backend in self._backends for word in ("--backend", backend.url)]
        environ = {"TRUNKLINE_BALANCER_ADMIN_PORT": str(self.admin)} | LONG_DRAIN | environ
        return await self._start("balance", "--listen", f"127.0.0.1:{self.port}", *named, *arguments, **environ)

    async def balancer(self, *arguments: str, **environ: str) -> Command:
        return await (await self.command(*arguments, **environ)).ready("balancer_up")


@pytest.fixture
def place(start_command: Start, foreign: list[ForeignBackend]) -> Place:
    return Place(start_command, foreign)


@contextlib.asynccontextmanager
async def steady_clients(port: int) -> AsyncIterator[list[str]]:
    """Clients that come one after the other all the time; what goes wrong is listed."""
    wrong: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        try:
            async with connect(f"ws://127.0.0.1:{port}/x", proxy=None, open_timeout=patient(10)) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
        except Exception as error:
            wrong.append(repr(error))

    async def come() -> None:
        while True:
            tasks.add(asyncio.create_task(one()))
            await asyncio.sleep(0.005)

    coming = asyncio.create_task(come())
    try:
        yield wrong
    finally:
        coming.cancel()
        await asyncio.gather(*tasks)


async def moved(command: Command) -> str:
    """The Unix socket on which a balancer that ends answers."""
    line = await command.hear(lambda line: line["event"] == "admin_port_moved")
    return str(line["socket"])


async def over_unix(path: str, page: str) -> tuple[int, str]:
    # Paths of tests may be longer than the address of a socket.
    folder = os.open(Path(path).parent, os.O_PATH)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"/proc/self/fd/{folder}/{Path(path).name}")) as http,
            http.get(f"http://localhost{page}") as answer,
        ):
            return answer.status, await answer.text()
    finally:
        os.close(folder)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_nobody_is_refused(place: Place, workers: str) -> None:
    """While one balancer takes over from another all clients get through, and those that are connected stay."""
    first = await place.balancer("--workers", workers)
    (stays,) = await connect_many(place.port, 1)
    async with steady_clients(place.port) as wrong:
        await asyncio.sleep(0.1)
        second = await place.balancer("--workers", workers, "--take-over")
        assert (await second.hear(lambda line: line["event"] == "taken_over"))["pid"] == first.process.pid
        path = await moved(first)
        await asyncio.sleep(0.2)
    assert wrong == []
    await stays.send("still here")
    assert await stays.recv() == "still here"
    # The port leads to the second one, the socket to the first one, which ends with its last connection.
    assert (await overview(second))["totalConnections"] >= 0
    async with asyncio.timeout(patient(10)):
        # Workers report their counts every second.
        while "ws_balancer_connections_active 1.0" not in (await over_unix(path, "/metrics"))[1]:
            await asyncio.sleep(0.05)
    await stays.close()
    assert await first.ended() == 0
    assert not Path(path).exists()
    (client,) = await connect_many(place.port, 1)
    await client.close()


async def test_a_third_takes_over_from_the_second(place: Place) -> None:
    """Whoever took over can be taken over."""
    commands = [await place.balancer()]
    for _ in range(2):
        commands.append(await place.balancer("--take-over"))
        assert await commands[-2].ended() == 0
    (client,) = await connect_many(place.port, 1)
    await client.close()


async def test_ports_are_free_while_the_old_one_drains(place: Place) -> None:
    """After SIGTERM the next balancer starts at once on both ports, and its admin token stays when the old one ends."""
    first = await place.balancer()
    (stays,) = await connect_many(place.port, 1)
    first.process.send_signal(signal.SIGTERM)
    path = await moved(first)
    second = await place.balancer()
    assert first.process.returncode is None
    assert (await over_unix(path, "/healthz"))[0] == 200
    tokens = list(Path(path).parent.glob("admin-*.token"))
    await stays.close()
    assert await first.ended() == 0
    assert [token.exists() for token in tokens] == [True]
    assert len((await overview(second))["services"]) == 3


async def test_a_start_that_takes_nothing_over(place: Place) -> None:
    """Without the flag the port is taken; with it, and nobody there to take over from, the start is an ordinary one."""
    first = await place.balancer("--take-over")
    second = await place.command()
    assert await second.ended() == 2
    assert "cannot listen" in "".join(second.other)
    assert "--take-over" in "".join(second.other)
    other = await place.command("--take-over", XDG_STATE_HOME="/nowhere")
    assert await other.ended() == 2
    assert "No balancer offers it here" in " ".join("".join(other.other).split())
    (client,) = await connect_many(place.port, 1)
    await client.close()
    assert await first.stop() == 0


async def test_the_offer_can_be_switched_off(place: Place) -> None:
    """With `balancer.hand_over = false`, as in a fleet of `trunkline up`, nothing is given away."""
    await place.balancer(TRUNKLINE_BALANCER_HAND_OVER="false")
    second = await place.command("--take-over")
    assert await second.ended() == 2


async def test_one_that_fails_takes_nothing(place: Place) -> None:
    """When the new balancer cannot start, the old one goes on as if nothing had been."""
    first = await place.balancer()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        async with steady_clients(place.port) as wrong:
            second = await place.command("--take-over", TRUNKLINE_BALANCER_ADMIN_PORT=port)
            assert await second.ended() == 2
    assert wrong == []
    (client,) = await connect_many(place.port, 1)
    await client.close()
    assert (await overview(first))["totalConnections"] >= 0
    third = await place.balancer("--take-over")
    assert await first.ended() == 0
    assert await third.stop() == 0


async def test_a_steering_balancer(place: Place) -> None:
    """The port that Traefik asks is taken over in the same way."""
    first = await place.balancer("--mode", "steer")
    second = await place.balancer("--mode", "steer", "--take-over")
    assert await first.ended() == 0
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{place.port}/healthz") as answer:
        assert answer.status == 200
    assert await second.stop() == 0


@pytest.fixture
def same_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is of the user whose balancers the tests start."""
    monkeypatch.setenv("XDG_STATE_HOME", environment(tmp_path)["XDG_STATE_HOME"])


@pytest.mark.usefixtures("same_user")
async def test_of_two_that_take_over_one_is_told_that_it_comes_late(place: Place) -> None:
    """The first that is up has the place; the other is told, and ends. Nothing that it did concerns anybody."""
    first = await place.balancer()
    late = take_over(BalancerSettings(host="127.0.0.1", port=place.port))
    assert late is not None
    second = await place.balancer("--take-over")
    assert await first.ended() == 0
    with pytest.raises(StartError, match="taken over by another one first"):
        await late.finish()
    late.give_up()
    (client,) = await connect_many(place.port, 1)
    await client.close()
    assert await second.stop() == 0


@pytest.mark.usefixtures("same_user")
async def test_one_that_ends_meanwhile_need_not_be_waited_for(place: Place) -> None:
    """A balancer that is stopped while another one starts says so, and the other one serves."""
    first = await place.balancer()
    taken = take_over(BalancerSettings(host="127.0.0.1", port=place.port))
    assert taken is not None
    assert await first.stop() == 0
    await taken.finish()
    taken.give_up()


@pytest.mark.usefixtures("same_user")
async def test_a_new_one_that_is_not_up_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one goes on, with its admin token, and whoever comes too late is told and ends."""
    monkeypatch.setattr("trunkline.balancer.hand_over.READY_S", 0.01)
    ended: list[bool] = []
    offer = Offer(lambda: ended.append(True))
    token = AdminTokens(place.admin, ())
    token.keep()
    with socket.create_server(("127.0.0.1", place.port)) as clients:
        offer.start(BalancerSettings(host="127.0.0.1", port=place.port), place.port, [clients], [])
        late = await place.command("--take-over")
        assert await late.ended() == 2
        assert "not up within" in " ".join("".join(late.other).split())
        assert ended == []
        assert kept_token(place.admin) == token.reveal()
        await offer.stop()


async def test_a_signal_during_the_start(place: Place) -> None:
    """A new balancer that is to end before it is up ends alone."""
    first = await place.balancer()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It waits for a bus that does not answer.
        bus = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        second = await place.command("--take-over", "--bus", bus)
        await asyncio.get_running_loop().run_in_executor(None, silent.accept)
        second.process.send_signal(signal.SIGTERM)
        assert await second.ended() == 0
    assert first.process.returncode is None
    (client,) = await connect_many(place.port, 1)
    await client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_gets_nothing(place: Place, tmp_path: Path) -> None:
    """Another user cannot reach the socket by its path, and one that reaches it is refused by its user id."""
    balancer = await place.balancer()
    offer = next((tmp_path / "state" / "trunkline").glob("balancer-127*.sock"))
    script = (
        "import os, socket, sys\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.settimeout(5)\n"
        "try:\n"
        "    sock.connect(os.path.basename(sys.argv[1]))\n"
        "    print(socket.recv_fds(sock, 4096, 8)[:2])\n"
        "except OSError as error: print(error.strerror)\n"
    )

    async def tried() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(offer), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode().strip()

    assert await tried() == "Permission denied"
    for path in (offer, offer.parent):
        path.chmod(0o777)
    assert await tried() == "(b'', [])"
    await balancer.hear(lambda line: line["event"] == "hand_over_refused")


def activated(sockets: dict[str, socket.socket], *arguments: str) -> list[str]:
    """A command line that starts a program as systemd does, with sockets by their names."""
    moves = " ".join(f"{10 + number}<&{sock.fileno()}" for number, sock in enumerate(sockets.values()))
    places = " ".join(f"{3 + number}<&{10 + number}" for number in range(len(sockets)))
    names = ":".join(sockets)
    script = f'exec {moves}; exec {places}; LISTEN_PID=$$ LISTEN_FDS={len(sockets)} LISTEN_FDNAMES={names} exec "$@"'
    return ["bash", "-c", script, "sh", *arguments]


async def test_sockets_of_a_service_manager(foreign: list[ForeignBackend], tmp_path: Path) -> None:
    """With systemd's LISTEN_FDS clients wait in the queue of the socket while no balancer runs, and none is refused."""
    sockets = {"edge.socket": socket.create_server(("127.0.0.1", 0)), "admin": socket.create_server(("127.0.0.1", 0))}
    port, admin = (sock.getsockname()[1] for sock in sockets.values())

    async def start() -> Command:
        process = await asyncio.create_subprocess_exec(
            *activated(sockets, sys.executable, "-m", "trunkline", "balance", "--backend", foreign[0].url),
            env=environment(
                tmp_path,
                TRUNKLINE_LOG_FORMAT="json",
                TRUNKLINE_BALANCER_DRAIN_MS="0",
                TRUNKLINE_BALANCER_WORKERS="2",
                TRUNKLINE_BALANCER_ADMIN_PORT=str(admin),
            ),
            pass_fds=[sock.fileno() for sock in sockets.values()],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return await Command(process).ready("balancer_up")

    try:
        first = await start()
        assert (first.port, first.up["admin_port"]) == (port, admin)
        await close_all(await connect_many(port, 3))
        assert await first.stop() == 0
        waiting = asyncio.create_task(connect_many(port, 3))
        second = await start()
        await close_all(await waiting)
        assert (await overview(second))["totalConnections"] >= 0
        assert await second.stop() == 0
    finally:
        for sock in sockets.values():
            sock.close()
