"""The first connection: what is found out, and one clear line for each way to fail."""

from __future__ import annotations

import asyncio
import socket
from random import Random
from time import monotonic

import pytest

from tests.support.free_ports import free_port
from tests.support.load.faulty_server import Faults, FaultyServer, Peer
from tests.support.patience import patient
from trunkline.errors import SettingsError, StartError
from trunkline.load.client.dial import Dialer, shown_url, split_url
from trunkline.load.client.link import WebSocket
from trunkline.load.client.probe import probe
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import Job
from trunkline.load.model.plan import Protocol, Scenario, Stage, Target
from trunkline.load.model.tally import Tally


async def refusal(target: Target, protocol: Protocol = "auto") -> str:
    with pytest.raises(StartError) as caught:
        await probe(target, protocol)
    return str(caught.value)


async def test_an_echo_is_found_out() -> None:
    """A server that says nothing and returns a text is an echo."""
    async with FaultyServer() as server:
        assert (await probe(Target(server.url("/echo")), "auto")).protocol == "echo"


async def test_a_feed_is_found_out() -> None:
    """A server that greets and takes a subscription is a feed, and its limits are known."""
    async with FaultyServer() as server:
        probed = await probe(Target(server.url()), "auto")
        assert probed.protocol == "feed"
        assert probed.limits is not None


async def test_the_wrong_protocol_is_told() -> None:
    """Neither is a feed taken for an echo nor an echo for a feed."""
    async with FaultyServer() as server:
        assert "does not greet as a Trunkline feed" in await refusal(Target(server.url("/echo")), "feed")
        assert "is no echo" in await refusal(Target(server.url()), "echo")


async def test_nobody_listens() -> None:
    """A refused connection names the address and asks the right question."""
    text = await refusal(Target(f"ws://127.0.0.1:{free_port()}/ws"))
    assert "connect: refused, nobody listens there" in text
    assert "Is the server running" in text


async def test_an_unknown_name() -> None:
    """A host that has no address is said to have none."""
    assert "no address was found for nowhere.invalid" in await refusal(Target("ws://nowhere.invalid/ws"))


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        (Faults(refuse=401), ("answered 401 Unauthorized", "--header")),
        (Faults(refuse=404), ("answered 404 Not Found", "Check the path")),
        (Faults(refuse=503), ("answered 503 Service Unavailable", "full, draining or starting")),
        (Faults(false_accept=True), ("no valid WebSocket upgrade", "Check the URL")),
        (Faults(close=1008), ("closed the first connection at once with 1008", "--header")),
        (Faults(close=1006), ("closed the first connection at once with 1006", "--subprotocol")),
    ],
)
async def test_a_server_that_refuses(faults: Faults, says: tuple[str, str]) -> None:
    """The answer is named, and what may help."""
    async with FaultyServer(faults) as server:
        text = await refusal(Target(server.url("/echo")))
    for part in says:
        assert part in text


async def test_a_server_that_never_answers() -> None:
    """The time-out holds for connect and handshake together."""
    async with FaultyServer(Faults(silent=True)) as server:
        text = await refusal(Target(server.url(), connect_timeout_s=0.3))
    assert "timed out" in text
    assert "--connect-timeout" in text


async def test_tls_is_verified_unless_told_otherwise() -> None:
    """An unknown certificate is refused; its CA or --insecure lets it pass."""
    async with FaultyServer(tls=True) as server:
        text = await refusal(Target(server.url("/echo")))
        assert "TLS: certificate not accepted" in text
        assert "--ca" in text
        assert (await probe(Target(server.url("/echo"), ca_file=str(server.ca_file)), "auto")).protocol == "echo"
        assert (await probe(Target(server.url("/echo"), verify_tls=False), "auto")).protocol == "echo"


async def test_tls_where_there_is_none() -> None:
    """wss:// to a plain port is told as such."""
    async with FaultyServer() as server:
        text = await refusal(Target(server.url("/echo").replace("ws://", "wss://"), connect_timeout_s=2))
    assert "ws:// instead of wss://" in text or "timed out" in text or "before the answer" in text


async def test_a_ca_file_that_is_none() -> None:
    """A CA file that cannot be used is named before anything is connected."""
    assert "/nonexistent.pem" in await refusal(Target("wss://127.0.0.1:1/", ca_file="/nonexistent.pem"))


@pytest.mark.parametrize(
    "url", ["http://a/", "ws://", "ws:///x", "ws://a:0/", "ws://a:99999/", "ws://a b/", "ws://a/#x", "a"]
)
def test_no_url_of_a_websocket(url: str) -> None:
    """What is no ws:// or wss:// address is refused with an example."""
    with pytest.raises(SettingsError, match="ws://host:port/path"):
        split_url(url)


def test_secrets_are_not_shown() -> None:
    """User, password and values of the query stay out of reports."""
    shown = shown_url("wss://user:secret@h.example:9000/ws?token=abc&room=1")
    assert shown == "wss://h.example:9000/ws?token=…&room=…"
    assert shown_url("ws://[::1]:80/") == "ws://[::1]:80/"


async def test_no_socket_is_left_behind() -> None:
    """A failed connection closes what it opened."""
    before = len(open_sockets())
    async with FaultyServer(Faults(refuse=403)) as server:
        for _ in range(5):
            await refusal(Target(server.url()))
    assert len(open_sockets()) <= before


def open_sockets() -> list[socket.socket]:
    import gc

    return [each for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() >= 0]


async def test_a_feed_that_never_answers_a_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats in place of the answer do not keep the question open for ever."""
    monkeypatch.setattr("trunkline.load.client.probe._ANSWER_S", 0.5)
    async with FaultyServer(Faults(heartbeat=0.1)) as server:
        monkeypatch.setattr(Peer, "subscribe", lambda self, request: None)
        async with asyncio.timeout(patient(5)):
            assert "takes no subscription" in await refusal(Target(server.url()))


async def test_the_next_address_where_one_refuses() -> None:
    """A name with two addresses is reached though the server listens at one of them only, as browsers do it."""
    async with FaultyServer() as server:
        good, bad = ("127.0.0.1", server.port), ("127.0.0.1", free_port())
        target = Target(server.url("/echo"))
        dialer = Dialer(target, [(socket.AF_INET, bad), (socket.AF_INET, good)], None)
        job = Job("x", target, Scenario("x", (Stage(0, 1),)), 0, 1, 0)
        tally = Tally()
        session = Session(0, Shared(job, tally, monotonic, Random(0)))
        opened: list[WebSocket] = []
        for _ in range(4):
            await dialer.open(lambda: WebSocket(session, tally, opened.append, lambda *_: None), lambda _: None)
    assert len(opened) == 4
