"""NATS servers that have too little room, no answer, or take only small messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.support.server.bus_probe import Inbox, States, until
from trunkline.bus.base import Retention
from trunkline.bus.nats import bus as module
from trunkline.bus.nats.bus import NatsBus
from trunkline.bus.nats.jetstream import stream_config
from trunkline.bus.nats.wire import Wire
from trunkline.errors import BusCannotStore, BusUnavailable, MessageTooLarge
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.settings.sections import BusSettings

MIB = 1 << 20
KEPT = Retention(1000, 300.0)
Open = Callable[..., Awaitable[NatsBus]]
Serve = Callable[..., Awaitable[NatsServer]]


def retention_of(channel: str) -> Retention:
    return {"few": Retention(3, 300.0), "none": Retention(0, 0.0)}.get(channel, KEPT)


@pytest_asyncio.fixture
async def serve(store: Path) -> AsyncIterator[Serve]:
    servers: list[NatsServer] = []

    async def start(**options: int) -> NatsServer:
        for server in servers:
            await server.stop()
        servers.append(await NatsServer.start(store, on_warning=lambda _: None, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    await servers[-1].stop()


@pytest_asyncio.fixture
async def open_bus() -> AsyncIterator[Open]:
    buses: list[NatsBus] = []

    async def start(url: str, states: States | None = None, **changes: float) -> NatsBus:
        settings = BusSettings(url=url, prefix="t", max_bytes=1024 * MIB, **changes)  # type: ignore[arg-type]
        buses.append(NatsBus(settings, retention_of, [KEPT]))
        await buses[-1].start(states or (lambda _: None))
        return buses[-1]

    yield start
    for bus in buses:
        await bus.close()


async def test_a_stream_takes_the_room_that_there_is(serve: Serve, open_bus: Open) -> None:
    """Of 100 MiB, where it wants 1 GiB, it gets 64 and the next one 32; another node finds the same; each says so."""
    server = await serve(max_store=100 * MIB)
    with capture_logs() as lines:
        bus = await open_bus(server.url)
        assert (bus.connected, bus.problem) == (True, "")
        assert bus.warning.startswith("stream T_1000_300S may hold 67,108,864 bytes, less than bus.max_bytes")
        assert (await bus.publish("a", b"1")).offset == 1
        assert (await bus.publish("few", b"1")).offset == 1
        assert "T_3_300S may hold 33,554,432 bytes" in bus.warning
        other = await open_bus(server.url)
        assert other.warning == bus.warning.partition(";")[0]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["stream has less room"] * 3


async def test_without_room_the_cause_is_named_until_there_is_some(
    serve: Serve, open_bus: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus is connected, carries what needs no store, and refuses the rest with the cause, until NATS has room."""
    monkeypatch.setattr(module, "MEND_S", 0.05)
    server = await serve(max_store=8 * MIB)
    states = States()
    with capture_logs() as lines:
        bus = await open_bus(server.url, states)
        assert bus.connected
        assert "insufficient storage" in bus.problem
        assert "lower bus.max_bytes (1,073,741,824)" in bus.problem
        with pytest.raises(BusCannotStore, match="insufficient storage"):
            await bus.publish("a", b"1")
        with pytest.raises(BusCannotStore, match="insufficient storage"):
            await bus.history("a", 0, 10)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["bus cannot store"]
    inbox = Inbox()
    await bus.subscribe("none", inbox)
    await bus.publish("none", b"1")
    await inbox.wait(1)
    await serve(port=server.port, max_store=64 * MIB)
    await states.wait(True, False, True)
    assert bus.problem == ""
    assert (await bus.publish("a", b"1")).offset == 1


async def test_a_stream_is_had_as_soon_as_there_is_room(
    serve: Serve, open_bus: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes room on a server that goes on: the trouble ends without a publication."""
    monkeypatch.setattr(module, "MEND_S", 0.05)
    server = await serve(max_store=32 * MIB)
    wire = await Wire.connect(module.parse_address(server.url), prefix="t", tls=None)
    blocking = stream_config(BusSettings(url=server.url, prefix="other", max_bytes=30 * MIB), KEPT)
    await wire.request(f"$JS.API.STREAM.CREATE.{blocking.name}", msgspec.json.encode(blocking), timeout_s=2)
    bus = await open_bus(server.url)
    assert bus.problem
    await wire.request(f"$JS.API.STREAM.DELETE.{blocking.name}", b"", timeout_s=2)
    await until(lambda: not bus.problem)
    await wire.close("done")
    assert (await bus.publish("a", b"1")).offset == 1


async def test_writes_that_fail_silently_are_noticed(serve: Serve, open_bus: Open) -> None:
    """NATS answers nothing on a full disk: the third publication in a row names that; one that is stored ends it."""
    server = await serve()
    bus = await open_bus(server.url, publish_timeout_s=0.1)
    wire = await Wire.connect(module.parse_address(server.url), prefix="t", tls=None)
    config = msgspec.to_builtins(stream_config(BusSettings(url=server.url, prefix="t", max_bytes=1024 * MIB), KEPT))

    async def acknowledge(yes: bool) -> None:
        data = msgspec.json.encode(config | {"no_ack": not yes})
        await wire.request(f"$JS.API.STREAM.UPDATE.{config['name']}", data, timeout_s=2)

    await acknowledge(False)
    for kind in (BusUnavailable, BusUnavailable, BusCannotStore):
        with pytest.raises(BusUnavailable) as refused:
            await bus.publish("a", b"1")
        assert type(refused.value) is kind
        assert refused.value.sent
    assert "its disk may be full" in bus.problem
    await acknowledge(True)
    await bus.publish("a", b"1")
    assert bus.problem == ""
    await wire.close("done")


@pytest.mark.parametrize("channel", ["a", "none"])
async def test_a_message_above_the_limit_of_nats_ends_nothing(serve: Serve, open_bus: Open, channel: str) -> None:
    """The limit counts headers too, for which NATS would end the connection of the whole node."""
    server = await serve(max_payload=4096)
    states = States()
    bus = await open_bus(server.url, states)
    await bus.publish(channel, b"x" * 4096)
    for size, origin in ((4097, None), (4096, "node.1")):
        with pytest.raises(MessageTooLarge) as refused:
            await bus.publish(channel, b"x" * size, origin=origin)
        assert refused.value.limit == 4096
    spare = 4096 - refused.value.size + 4096
    await bus.publish(channel, b"x" * spare, origin="node.1")
    inbox = Inbox()
    await bus.subscribe(channel, inbox)
    await bus.publish(channel, b"last")
    await inbox.wait(1)
    assert states.told == [True]
