"""What an application's code raises: it concerns the message or the client it was called for, and the log names it."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode
from trunkline import App, BusUnavailable, Client, Endpoint, MessageError, Refused, Request
from trunkline.protocol import wire


class Say(msgspec.Struct, tag="say"):
    """What clients of these tests send."""

    text: str = ""
    id: wire.MessageId = None


async def await_cancelled() -> None:
    """What a handler meets that awaits a task which somebody else cancels."""
    other = asyncio.create_task(asyncio.sleep(1000))
    asyncio.get_running_loop().call_soon(other.cancel)
    await other


async def until(condition: Any) -> None:
    async with asyncio.timeout(patient(5)):
        while not condition():
            await asyncio.sleep(0.01)


def faults(logs: Any, hook: str) -> list[tuple[str, str, str]]:
    """Endpoint, path and exception of the faults in a hook."""
    return [
        (line["endpoint"], line["path"], type(line["exc_info"]).__name__) for line in logs if line.get("hook") == hook
    ]


@pytest.mark.parametrize("how", ["async", "plain"])
async def test_a_cancelled_await_costs_one_message(start_node: StartNode, open_peer: OpenPeer, how: str) -> None:
    """A handler whose await is cancelled answers INTERNAL to that message; those queued behind it are served."""
    app = App()
    gate = asyncio.Event()

    @app.websocket("/x", message=Say)
    class X(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            if message.text == "wait":
                await gate.wait()
            if message.text == "fail":
                await await_cancelled()
            client.send({"type": "done", "id": message.id})

    @app.websocket("/plain", message=Say)
    class Plain(Endpoint):
        def on_message(self, client: Client, message: Say) -> None:
            if message.text == "fail":
                raise asyncio.CancelledError
            client.send({"type": "done", "id": message.id})

    node = await start_node(app)
    peer = await open_peer(node, "/x" if how == "async" else "/plain")
    with capture_logs() as logs:
        for number, text in enumerate(["wait", "a", "fail", "b", "fail", "c"]):
            await peer.send({"type": "say", "text": text, "id": number})
        gate.set()
        answers = [await peer.next() for _ in range(6)]
    assert [(each["type"], each["id"]) for each in answers] == [
        ("done", 0), ("done", 1), ("error", 2), ("done", 3), ("error", 4), ("done", 5),
    ]  # fmt: skip
    assert {each["code"] for each in answers if each["type"] == "error"} == {"INTERNAL"}
    name, path = ("X", "/x") if how == "async" else ("Plain", "/plain")
    assert faults(logs, "on_message") == [(name, path, "CancelledError")] * 2


async def test_a_cancelled_await_elsewhere_is_a_fault_too(start_node: StartNode, open_peer: OpenPeer) -> None:
    """In a function, `on_connect`, `on_disconnect`, `admit` and periodic hooks: the log names it, nobody waits."""
    app = App()
    rounds = 0

    @app.websocket("/function", message=Say)
    async def function(client: Client) -> None:
        await await_cancelled()

    class Fails(Endpoint):
        async def on_connect(self, client: Client) -> None:
            await await_cancelled()

        async def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            await await_cancelled()

    @app.websocket("/admit")
    class Admit(Endpoint):
        async def admit(self, request: Request) -> None:
            await await_cancelled()

    @app.every(0.01)
    async def often() -> None:
        nonlocal rounds
        rounds += 1
        await await_cancelled()

    app.websocket("/connect")(Fails)
    app.websocket("/bare", envelope=False)(Fails)
    node = await start_node(app)
    with capture_logs() as logs:
        for path in ("/function", "/connect", "/bare"):
            assert await (await open_peer(node, path, greet=False)).closed() == (1011, "internal error")
        with pytest.raises(Exception, match="HTTP 500"):
            await open_peer(node, "/admit", greet=False)
        await until(lambda: len(faults(logs, "on_disconnect")) == 2 and rounds > 1)
    assert faults(logs, "function") == [("function", "/function", "CancelledError")]
    assert faults(logs, "on_connect") == [("Fails", "/connect", "CancelledError"), ("Fails", "/bare", "CancelledError")]
    assert [line["path"] for line in logs if line["event"] == "admission_failed"] == ["/admit"]


async def test_spawned_work_that_meets_a_cancellation_is_logged(start_node: StartNode) -> None:
    """`spawn` returns the task: cancelling it is no fault, a cancelled await within it is."""
    app = App()
    await start_node(app)
    with capture_logs() as logs:
        mine = app.spawn(asyncio.sleep(1000, "never"))
        mine.cancel()
        failed = app.spawn(await_cancelled())
        assert await app.spawn(asyncio.sleep(0, "done")) == "done"
        await asyncio.wait([mine, failed])
    assert mine.cancelled()
    assert [line["event"] for line in logs] == ["background_task_failed"]


async def test_a_handler_that_cancels_its_own_task_ends_its_client(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The task serves all messages of the client, which must not wait for answers that never come: close 1011."""
    app = App()

    @app.websocket("/x", message=Say)
    class X(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1000)

    node = await start_node(app)
    peer = await open_peer(node, "/x")
    with capture_logs() as logs:
        await peer.send({"type": "say"})
        assert await peer.closed() == (1011, "internal error")
    assert faults(logs, "on_message") == [("X", "/x", "CancelledError")]


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(KeyError("room"), "INTERNAL", id="a mistake"),
        pytest.param(MessageError(wire.CHANNEL_LIMIT, "channels: 101 would exceed 100"), "CHANNEL_LIMIT", id="a rule"),
    ],
)
async def test_a_fault_in_on_connect_names_itself(
    start_node: StartNode, open_peer: OpenPeer, kind: str, error: Exception, code: str
) -> None:
    """Log: hook, endpoint, path, exception. Client: greeting, error, goodbye, 1011; what it sent meets no handler."""
    app = App()
    heard = []

    @app.websocket("/plain", message=Say)
    class Plain(Endpoint):
        def on_connect(self, client: Client) -> None:
            raise error

    @app.websocket("/async", message=Say)
    class Async(Endpoint):
        async def on_connect(self, client: Client) -> None:
            await asyncio.sleep(0.05)
            raise error

        async def on_message(self, client: Client, message: Say) -> None:
            heard.append(message)

    node = await start_node(app)
    with capture_logs() as logs:
        peer = await open_peer(node, f"/{kind}", greet=False)
        if kind == "async":
            await peer.send({"type": "say"})
        assert await peer.closed() == (1011, "internal error")
    assert [message["type"] for message in peer.seen] == ["connection_established", "error", "goodbye"]
    assert peer.seen[1]["code"] == code
    assert (peer.seen[2]["code"], peer.seen[2]["reconnect"]) == (1011, True)
    assert faults(logs, "on_connect") == [(kind.capitalize(), f"/{kind}", type(error).__name__)]
    assert heard == []


async def test_on_connect_without_a_bus_is_no_fault(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The client is sent away for a moment, and the log is not filled by each of them."""
    app = App()

    @app.websocket("/x")
    class X(Endpoint):
        async def on_connect(self, client: Client) -> None:
            raise BusUnavailable("gone")

    node = await start_node(app)
    with capture_logs() as logs:
        peer = await open_peer(node, "/x", greet=False)
        assert (await peer.closed())[0] == 1013
    assert faults(logs, "on_connect") == []


@pytest.mark.parametrize("where", ["on_message", "function", "on_disconnect"])
async def test_work_for_a_client_that_has_gone_ends(start_node: StartNode, open_peer: OpenPeer, where: str) -> None:
    """It may go on for `server.work_grace_ms`; then it is cancelled, and the log says so."""
    app = App()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    @app.websocket("/function", message=Say)
    async def function(client: Client) -> None:
        await work()

    @app.websocket("/class", message=Say)
    class Class(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            await work()

        async def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            if where == "on_disconnect":
                await work()

    node = await start_node(app, server__work_grace_ms=200)
    path = "/function" if where == "function" else "/class"
    peer = await open_peer(node, path)
    if where == "on_message":
        await peer.send({"type": "say"})
        await begun.wait()
    with capture_logs() as logs:
        await peer.socket.close()
        async with asyncio.timeout(patient(5)):
            await ended.wait()
        await until(lambda: not node.registry.tasks)
    cut = [line for line in logs if line["event"] == "handler_cancelled"]
    assert [(line["path"], line["after_s"]) for line in cut] == [(path, 0.2)]


async def test_a_function_that_had_channels_ends_with_its_client(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A request that was awaited for the client beside it does not take its place."""
    app = App()
    ended = asyncio.Event()

    @app.websocket("/x", message=Say, channels=True)
    async def function(client: Client) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    node = await start_node(app, server__work_grace_ms=200)
    peer = await open_peer(node, "/x")
    await peer.ask({"type": "publish", "channel": "public.a", "data": 1}, "publish_ack")
    await peer.socket.close()
    async with asyncio.timeout(patient(5)):
        await ended.wait()


@pytest.mark.parametrize("path", ["/x", "/bare"])
async def test_a_function_that_is_cancelled_leaves_no_client_behind(
    start_node: StartNode, open_peer: OpenPeer, path: str
) -> None:
    """Nothing would ever take its messages: it is closed, and the log says why."""
    app = App()

    async def function(client: Client) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        async for _ in client:
            pass

    app.websocket("/x", message=Say)(function)
    app.websocket("/bare", envelope=False)(function)
    node = await start_node(app)
    with capture_logs() as logs:
        peer = await open_peer(node, path, greet=path == "/x")
        assert await peer.closed() == (1011, "internal error")
    assert faults(logs, "function") == [("function", path, "CancelledError")]


async def test_work_that_ends_in_time_is_left_alone(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Nothing is cancelled that ends by itself, and nothing of it stays in the wheel."""
    app = App()
    gate, done = asyncio.Event(), asyncio.Event()

    @app.websocket("/x", message=Say)
    class X(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            await gate.wait()
            done.set()

    node = await start_node(app)
    peer = await open_peer(node, "/x")
    await peer.send({"type": "say"})
    await peer.socket.close()
    await until(lambda: not node.registry.connections)
    gate.set()
    await until(lambda: done.is_set() and not node.registry.tasks)
    assert not any(node.runtime.wheel._slots)


@pytest.mark.parametrize("message", [Say, msgspec.Raw])
async def test_heartbeats_are_answered_while_work_is_pending(
    start_node: StartNode, open_peer: OpenPeer, message: Any
) -> None:
    """A client that waits for slow work learns that the server is there; everything else keeps its order."""
    app = App()
    gate = asyncio.Event()

    @app.websocket("/x", message=message)
    class X(Endpoint):
        async def on_message(self, client: Client, message: Say | msgspec.Raw) -> None:
            await gate.wait()
            client.send({"type": "done"})

    node = await start_node(app)
    peer = await open_peer(node, "/x")
    await peer.send({"type": "say", "text": "first"})
    await peer.send({"type": "say", "text": '{"type":"heartbeat"}'})
    await peer.send({"type": "heartbeat", "id": [1]})  # which is none
    for number in range(3):
        assert (await peer.ask({"type": "heartbeat", "id": number}, "pong"))["id"] == number
    pong = await peer.socket.ping(b"still there")
    await asyncio.wait_for(pong, patient(5))
    gate.set()
    assert [(await peer.next())["type"] for _ in range(3)] == ["done", "done", "error"]


async def test_errors_for_messages_over_the_rate_are_few(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The first ones are answered one by one, the rest some a second; the next answer says how many there were."""
    node = await start_node(limits__rate_burst=5, limits__rate_per_s=1.0)
    peer = await open_peer(node)
    for number in range(1000):
        await peer.send({"type": "heartbeat", "id": number})
    await until(lambda: node.runtime.meter.messages_received == 1000)
    refused = node.runtime.meter.rate_limited
    assert refused >= 990
    node.runtime.clock.now += 60
    assert (await peer.skip_to("pong"))["id"] == 0
    for _ in range(6):
        await peer.send({"type": "heartbeat", "id": "last"})
    told = []
    while not told or told[-1].get("id") != "last":
        message = await peer.next()
        if message["type"] == "error":
            assert (message["code"], message["temporary"]) == ("RATE_LIMIT_EXCEEDED", True)
            told.append(message)
    assert 20 < len(told) <= 40
    assert [each["id"] for each in told[:20]] == list(range(5, 25))
    assert "more were refused before this one" in told[-1]["message"]


async def test_admit_knows_the_parameters_of_the_path(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`request.params` in `admit` are what `client.params` are later."""
    app = App()

    @app.websocket("/rooms/{room}")
    class Room(Endpoint):
        def admit(self, request: Request) -> None:
            if request.params["room"] == "closed":
                raise Refused(403, "this room is closed")

        def on_connect(self, client: Client) -> None:
            client.state.room = client.params["room"]
            client.send({"type": "welcome", "room": client.state.room})

    node = await start_node(app)
    peer = await open_peer(node, "/rooms/open")
    assert (await peer.next())["room"] == "open"
    with pytest.raises(Exception, match="HTTP 403"):
        await open_peer(node, "/rooms/closed")


async def test_the_state_of_a_client_is_a_namespace(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Values by names, each client's own; a value in its place as a whole works too."""
    app = App()
    seen: dict[Literal["names", "whole"], Any] = {}

    @app.websocket("/x")
    class X(Endpoint):
        def on_connect(self, client: Client) -> None:
            state = client.state
            assert "room" not in state
            with pytest.raises(AttributeError, match="nothing was set as 'room' in this client's state"):
                _ = state.room
            state.room, state.count = "lobby", 0
            state.count = 1
            del state.room
            assert client.state is state
            seen["names"] = ("room" in state, state.count, repr(state))
            client.state = {"whole": True}
            seen["whole"] = client.state

    node = await start_node(app)
    await open_peer(node, "/x")
    assert seen == {"names": (False, 1, "State(count=1)"), "whole": {"whole": True}}
