"""The public Python API on a running node: endpoints of both kinds, hooks, limits, faults and order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from websockets.exceptions import InvalidStatus

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode
from tests.support.server.raw_peer import TEXT, RawPeer, frame, upgrade
from trunkline import App, Client, ClientGone, Endpoint, Limits, Publication, Refused, Request


class Say(msgspec.Struct, tag="say"):
    text: str
    id: str | int | None = None


class Count(msgspec.Struct, tag="count"):
    to: int


async def test_plain_endpoint_class(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Plain methods see the client with its parameters and query, typed messages, and the end once with its code."""
    app = App()
    seen: list[Any] = []
    ended = asyncio.Event()

    @app.websocket("/rooms/{room}/{seat}", message=Say | Count)
    class Room(Endpoint):
        def on_connect(self, client: Client) -> None:
            client.state = 0
            seen.append(("connect", client.params, client.query, client.subject, client.address))

        def on_message(self, client: Client, message: Say | Count) -> None:
            client.state += 1
            seen.append(message)
            client.send({"type": "seen", "number": client.state})

        def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            seen.append(("disconnect", code, reason, client.connected))
            with pytest.raises(ClientGone) as gone:
                client.send("too late")
            seen.append(gone.value.code)
            ended.set()

    node = await start_node(app)
    peer = await open_peer(node, "/rooms/blue%20one/4?a=1&b=&a=2")
    assert (await peer.ask({"type": "say", "text": "hi"}, "seen"))["number"] == 1
    await peer.ask({"type": "count", "to": 3}, "seen")
    await peer.socket.close(3999, "enough")
    await asyncio.wait_for(ended.wait(), patient(2))
    assert seen == [
        ("connect", {"room": "blue one", "seat": "4"}, {"a": "2", "b": ""}, None, "127.0.0.1"),
        Say("hi"),
        Count(3),
        ("disconnect", 3999, "enough", False),
        3999,
    ]


async def test_async_endpoint_keeps_each_clients_order(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Messages of one client are awaited one after the other, behind `on_connect`; other clients do not wait."""
    app = App()
    gate = asyncio.Event()

    @app.websocket("/slow", message=Count)
    class Slow(Endpoint):
        async def on_connect(self, client: Client) -> None:
            if "wait" in client.query:
                await gate.wait()
            client.state = []

        async def on_message(self, client: Client, message: Count) -> None:
            await asyncio.sleep(0.003 if message.to % 2 else 0)
            client.state.append(message.to)
            client.send({"type": "done", "all": client.state})

    node = await start_node(app, limits__rate_per_s=0)
    held = await open_peer(node, "/slow?wait=1")
    for number in range(20):
        await held.send({"type": "count", "to": number})
    free = await open_peer(node, "/slow")
    assert (await free.ask({"type": "count", "to": 7}, "done"))["all"] == [7]
    gate.set()
    answers = [await held.expect("done") for _ in range(20)]
    assert answers[-1]["all"] == list(range(20))


async def test_function_endpoint_iterates_until_the_client_leaves(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`async for` brings typed messages and ends with the connection; returning closes it with 1000."""
    app = App()
    finished = asyncio.Event()

    @app.websocket("/talk", message=Say)
    async def talk(client: Client) -> None:
        async for message in client:
            if message.text == "quit":
                return
            client.send({"type": "echo", "text": message.text})
        finished.set()

    node = await start_node(app)
    peer = await open_peer(node, "/talk")
    assert (await peer.ask({"type": "say", "text": "a"}, "echo"))["text"] == "a"
    await peer.send({"type": "say", "text": "quit"})
    assert (await peer.closed())[0] == 1000
    other = await open_peer(node, "/talk")
    await other.ask({"type": "say", "text": "b"}, "echo")
    await other.socket.close()
    await asyncio.wait_for(finished.wait(), patient(2))


async def test_join_publish_leave_and_close(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Application code may use channels that no rule opens to clients; leaving stops them; close carries its hint."""
    app = App()

    @app.websocket("/x", message=Say)
    class X(Endpoint):
        async def on_connect(self, client: Client) -> None:
            await client.join("inner.room")

        async def on_message(self, client: Client, message: Say) -> None:
            match message.text:
                case "leave":
                    client.leave("inner.room")
                    client.leave("inner.other")
                    client.send({"type": "left"})
                case "close":
                    client.close(4321, "by the app", reconnect_after_ms=77)
                    client.close(4322)
                case text:
                    await client.publish("inner.room", {"text": text})

    node = await start_node(app)
    one, two = await open_peer(node, "/x"), await open_peer(node, "/x")
    for peer in (one, two):
        assert (await peer.expect("subscription_ack"))["subscribed"] == ["inner.room"]
    await one.send({"type": "say", "text": "hello"})
    for peer in (one, two):
        assert (await peer.expect("publication"))["data"] == {"text": "hello"}
    await two.ask({"type": "say", "text": "leave"}, "left")
    await one.send({"type": "say", "text": "again"})
    await one.expect("publication")
    await app.publish("inner.room", {"text": "from the server"})
    assert (await one.expect("publication"))["data"] == {"text": "from the server"}
    await two.send({"type": "say", "text": "close"})
    assert await two.closed() == (4321, "by the app")
    assert [message["type"] for message in two.seen[-2:]] == ["left", "goodbye"]
    assert two.seen[-1]["reconnect_after_ms"] == 77
    # This endpoint did not open channels to its clients.
    error = await one.ask({"type": "subscribe", "channels": ["public.a"]}, "error")
    assert error["code"] == "UNKNOWN_TYPE"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_admit_may_refuse(start_node: StartNode, open_peer: OpenPeer, asynchronous: bool) -> None:
    """`Refused` answers with its status and Retry-After; another exception is a 500 that tells nothing."""
    app = App()

    def decide(request: Request) -> None:
        match request.query.get("as"):
            case "full":
                raise Refused(503, "no seat", retry_after_s=7, label="no_seat")
            case "banned":
                raise Refused(403, "not you")
            case "fault":
                raise RuntimeError("secret detail")

    @app.websocket("/door")
    class Door(Endpoint):
        def admit(self, request: Request) -> Any:
            if not asynchronous:
                return decide(request)

            async def later() -> None:
                await asyncio.sleep(0.001)
                decide(request)

            return later()

    node = await start_node(app)
    for name, status in [("full", 503), ("banned", 403), ("fault", 500)]:
        peer = await RawPeer.connect(node.port)
        await peer.send(upgrade(f"/door?as={name}"))
        answer = await peer.answer()
        assert answer.status == status
        assert b"secret" not in answer.body
        assert answer.headers.get("retry-after") == ("7" if name == "full" else None)
        peer.close()
    await open_peer(node, "/door?as=friend")
    assert node.runtime.meter.connections_failed.values == {("no_seat",): 1, ("refused",): 1, ("internal",): 1}


async def test_hooks(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Start-up hooks run before the first client and may use channels; shutdown hooks after the last one has gone."""
    app = App()
    order: list[str] = []
    heard: list[Publication] = []
    ticked = asyncio.Event()

    @app.on_startup
    async def start() -> None:
        order.append(f"start {app.settings.server.host}")
        await app.listen("inner.log", heard.append)

    @app.on_startup
    def second() -> None:
        order.append("second")

    @app.on_shutdown
    async def stop() -> None:
        await app.publish("inner.log", "bye")
        order.append("stop")

    app.every(0.01)(ticked.set)

    @app.websocket("/x")
    class X(Endpoint):
        def on_connect(self, client: Client) -> None:
            order.append("connect")

        def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            order.append(f"disconnect {code}")

    node = await start_node(app)
    await open_peer(node, "/x")
    await asyncio.wait_for(ticked.wait(), patient(2))
    await app.publish("inner.log", {"n": 1})
    await node.stop(drain_ms=0, deadline_ms=1000)
    assert order == ["start 127.0.0.1", "second", "connect", "disconnect 1001", "stop"]
    assert [publication.data for publication in heard] == [b'{"n":1}', b'"bye"']
    assert [publication.channel for publication in heard] == ["inner.log"] * 2


async def test_a_listener_can_stop_listening(start_node: StartNode) -> None:
    """After `unlisten` nothing more comes, and a listener of another channel is not touched."""
    app = App()
    await start_node(app)
    a: list[bytes] = []
    b: list[bytes] = []

    def hear_a(publication: Publication) -> None:
        a.append(publication.data)

    await app.listen("inner.a", hear_a)
    await app.listen("inner.b", lambda publication: b.append(publication.data))
    for channel in ("inner.a", "inner.b"):
        await app.publish(channel, 1)
    app.unlisten("inner.a", hear_a)
    app.unlisten("inner.a", hear_a)
    for channel in ("inner.a", "inner.b"):
        await app.publish(channel, 2)
    assert (a, b) == ([b"1"], [b"1", b"2"])


async def test_messages_are_validated(start_node: StartNode, open_peer: OpenPeer) -> None:
    """What does not fit the declared type never reaches the endpoint; the client is told which field."""
    app = App()
    got: list[Any] = []

    @app.websocket("/x", message=Say | Count)
    class X(Endpoint):
        def on_message(self, client: Client, message: Any) -> None:
            got.append(message)

    peer = await open_peer(await start_node(app), "/x")
    for message, code, named in [
        ({"type": "say"}, "INVALID_MESSAGE", "text"),
        ({"type": "count", "to": "3"}, "INVALID_MESSAGE", "$.to"),
        ({"type": "subscribe", "channels": ["a"]}, "UNKNOWN_TYPE", "subscribe"),
        ({"text": "hi"}, "INVALID_MESSAGE", "type"),
    ]:
        error = await peer.ask(message, "error")
        assert (error["code"], named in error["message"]) == (code, True)
    assert got == []


async def test_endpoint_limits(start_node: StartNode, open_peer: OpenPeer) -> None:
    """An endpoint's own limits replace the settings' and are told in the greeting; other endpoints keep theirs."""
    app = App()
    small = Limits(message_bytes=200, rate_burst=2, rate_per_s=1)
    app.websocket("/small", message=Say, limits=small)(Endpoint)
    app.websocket("/other", message=Say)(Endpoint)
    node = await start_node(app, server__close_timeout_ms=100)
    peer = await open_peer(node, "/small", greet=False)
    greeting = await peer.expect("connection_established")
    assert greeting["limits"] == {"message_bytes": 200, "rate_burst": 2.0, "rate_per_s": 1.0}
    for _ in range(2):
        await peer.ask({"type": "heartbeat"}, "pong")
    assert (await peer.ask({"type": "heartbeat"}, "error"))["code"] == "RATE_LIMIT_EXCEEDED"
    await peer.send({"type": "say", "text": "x" * 200})
    assert (await peer.closed())[0] == 1009
    other = await open_peer(node, "/other")
    await other.send({"type": "say", "text": "x" * 200})
    for _ in range(5):
        await other.ask({"type": "heartbeat"}, "pong")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_fault_in_on_message_is_told_and_survived(
    start_node: StartNode, open_peer: OpenPeer, asynchronous: bool
) -> None:
    """An exception becomes INTERNAL with the id and without its text; the connection stays."""
    app = App()

    @app.websocket("/plain", message=Say)
    class Plain(Endpoint):
        def on_message(self, client: Client, message: Say) -> None:
            raise RuntimeError("secret detail")

    @app.websocket("/async", message=Say)
    class Async(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            await asyncio.sleep(0)
            raise RuntimeError("secret detail")

    peer = await open_peer(await start_node(app), "/async" if asynchronous else "/plain")
    for number in range(3):
        error = await peer.ask({"type": "say", "text": "x", "id": number}, "error")
        assert (error["code"], error.get("id")) == ("INTERNAL", number)
        assert "secret" not in json.dumps(error)
    await peer.ask({"type": "heartbeat"}, "pong")


async def test_faults_that_end_the_connection(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A function endpoint or an `on_connect` that fails cannot go on: close 1011. `on_disconnect` may fail."""
    app = App()

    @app.websocket("/function", message=Say)
    async def function(client: Client) -> None:
        async for _ in client:
            raise RuntimeError("secret detail")

    @app.websocket("/connect")
    class Connect(Endpoint):
        def on_connect(self, client: Client) -> None:
            raise RuntimeError("secret detail")

    @app.websocket("/connect-async")
    class ConnectAsync(Endpoint):
        async def on_connect(self, client: Client) -> None:
            raise RuntimeError("secret detail")

    @app.websocket("/bare", envelope=False)
    class Bare(Endpoint):
        def on_message(self, client: Client, message: str | bytes) -> None:
            raise RuntimeError("secret detail")

        def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            raise RuntimeError("secret detail")

    node = await start_node(app)
    for path in ("/function", "/connect", "/connect-async", "/bare"):
        peer = await open_peer(node, path, greet=False)
        if path in ("/function", "/bare"):
            await peer.send({"type": "say", "text": "x"})
        assert await peer.closed() == (1011, "internal error"), path
        assert "secret" not in json.dumps(peer.seen)
    good = await open_peer(node, "/function")
    await good.ask({"type": "heartbeat"}, "pong")


async def test_channel_rules_of_the_app(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`app.channels` opens channels to the clients of endpoints with channels; the operator's rules come first."""
    from trunkline.settings.channels import ChannelRule

    app = App()
    app.channels("board.*", subscribe="anyone", publish="anyone", history=0)
    app.websocket("/x", channels=True)(Endpoint)
    node = await start_node(app, channels__rules=(ChannelRule("board.closed"),))
    peer = await open_peer(node, "/x")
    ack = await peer.ask({"type": "subscribe", "channels": ["board.a"]}, "subscription_ack")
    assert ack["positions"]["board.a"]["epoch"] is None
    assert (await peer.ask({"type": "subscribe", "channels": ["board.closed"]}, "error"))["code"] == "FORBIDDEN"
    assert (await peer.ask({"type": "subscribe", "channels": ["elsewhere"]}, "error"))["code"] == "FORBIDDEN"


@pytest.mark.parametrize("kind", ["class", "function"])
async def test_a_slow_handler_holds_its_client_back(start_node: StartNode, kind: str) -> None:
    """While a message is being awaited only a bounded number wait behind it; the rest stays in the client's socket."""
    app = App()
    gate = asyncio.Event()
    handled = 0

    async def work() -> None:
        nonlocal handled
        await gate.wait()
        handled += 1

    if kind == "class":

        @app.websocket("/slow", message=Say)
        class Slow(Endpoint):
            async def on_message(self, client: Client, message: Say) -> None:
                await work()

    else:

        @app.websocket("/slow", message=Say)
        async def slow(client: Client) -> None:
            async for _ in client:
                await work()

    node = await start_node(app, limits__rate_per_s=0)
    peer = await RawPeer.open(node.port, "/slow")
    one = frame(TEXT, b'{"type":"say","text":"%b"}' % (b"x" * 50_000))
    count = 400

    async def push() -> None:
        for _ in range(count):
            await peer.send(one)

    pushing = asyncio.create_task(push())
    _, waiting = await asyncio.wait([pushing], timeout=0.5)
    assert waiting, "20 MB went to a client whose handler takes nothing"
    (connection,) = node.registry.connections
    assert connection.bytes_in < 64 * 51_000 + (1 << 20)
    gate.set()
    await pushing
    async with asyncio.timeout(patient(5)):
        while handled < count:
            await asyncio.sleep(0.01)
    peer.close()


async def test_on_disconnect_is_called_once(start_node: StartNode, open_peer: OpenPeer) -> None:
    """However a connection ends, the endpoint hears of it once, with the code that ended it."""
    app = App()
    ended: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    @app.websocket("/x/{how}", message=Say)
    class X(Endpoint):
        def on_message(self, client: Client, message: Say) -> None:
            client.close(4000)
            client.close(4001)

        async def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            ended.put_nowait((client.params["how"], code))

    node = await start_node(app)
    by_server = await open_peer(node, "/x/server")
    await by_server.send({"type": "say", "text": ""})
    await by_server.closed()
    by_client = await open_peer(node, "/x/client")
    await by_client.socket.close(3000)
    cut = await RawPeer.open(node.port, "/x/cut")
    cut.close()
    broken = await RawPeer.open(node.port, "/x/broken")
    await broken.send(frame(3))
    await broken.closed()
    broken.close()
    heard = {await asyncio.wait_for(ended.get(), patient(2)) for _ in range(4)}
    assert heard == {("server", 4000), ("client", 3000), ("cut", 1006), ("broken", 1002)}
    await asyncio.sleep(0.1)
    assert ended.empty()


async def test_a_failing_on_disconnect_is_logged(start_node: StartNode, open_peer: OpenPeer) -> None:
    """An exception of `on_disconnect` reaches the log, whether the method is a plain one or async."""
    app = App()

    @app.websocket("/plain", envelope=False)
    class Plain(Endpoint):
        def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            raise RuntimeError("plain")

    @app.websocket("/async", envelope=False)
    class Async(Endpoint):
        async def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            raise RuntimeError("async")

    node = await start_node(app)
    for kind in ("plain", "async"):
        peer = await open_peer(node, f"/{kind}", greet=False)
        with capture_logs() as seen:
            await peer.socket.close()
            async with asyncio.timeout(patient(2)):
                while ("on_disconnect_failed", f"/{kind}") not in [
                    (entry["event"], entry.get("path")) for entry in seen
                ]:
                    await asyncio.sleep(0.01)


async def test_nothing_follows_a_close_frame(start_node: StartNode) -> None:
    """An answer that becomes ready after the node has said goodbye is not sent any more (RFC 6455 section 5.5.1)."""
    app = App()
    gate = asyncio.Event()

    @app.websocket("/x", message=Say)
    class X(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            await gate.wait()
            await client.join("inner.a")
            raise RuntimeError

    node = await start_node(app, server__close_timeout_ms=200)
    peer = await RawPeer.open(node.port, "/x")
    await peer.message()
    await peer.say({"type": "say", "text": ""})
    await peer.say({"type": "heartbeat"})
    (connection,) = node.registry.connections
    while connection.bytes_in < 60:
        await asyncio.sleep(0.005)
    connection.end(1001, "x")
    assert (await peer.closed())[0] == 1001
    gate.set()
    assert await peer.ended() == b""
    assert not any(channel.subscribers for channel in node.hub.channels.values())


async def test_declaring_what_cannot_work_is_an_error_at_once() -> None:
    """Mistakes in declarations show at import, with the path named."""
    app = App()
    with pytest.raises(ValueError, match="no-slash"):
        app.websocket("no-slash")(Endpoint)
    with pytest.raises(ValueError, match="/x"):
        app.websocket("/x", channels=True, envelope=False)(Endpoint)
    with pytest.raises(TypeError):
        app.websocket("/x")(lambda client: None)

    class Untagged(msgspec.Struct):
        text: str

    with pytest.raises(TypeError, match="/x"):
        app.websocket("/x", message=Untagged)(Endpoint)
    with pytest.raises(RuntimeError):
        await app.publish("a", 1)


async def test_many_query_parameters_are_no_fault(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A query beyond what is looked at does not end the connection."""
    app = App()

    @app.websocket("/x")
    class X(Endpoint):
        def on_connect(self, client: Client) -> None:
            client.send({"type": "query", "first": client.query["a"]})

    node = await start_node(app)
    peer = await open_peer(node, "/x?a=1&" + "&".join(f"q{number}=1" for number in range(500)))
    assert (await peer.expect("query"))["first"] == "1"
    with pytest.raises(InvalidStatus):
        await open_peer(node, "/y")


async def test_admit_that_never_decides_is_ended(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A handshake that hangs in the application's own question gets 503 when its time is over."""
    app = App()

    @app.websocket("/door")
    class Door(Endpoint):
        async def admit(self, request: Request) -> None:
            await asyncio.Event().wait()

    node = await start_node(app, server__handshake_timeout_ms=200)
    with pytest.raises(InvalidStatus) as refused:
        await open_peer(node, "/door")
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"]
    assert not node.registry.connections


async def test_a_client_that_waits_for_us_is_not_silent(start_node: StartNode, open_peer: OpenPeer) -> None:
    """While its messages wait for a slow handler the client is not read from; that is no reason to call it idle."""
    app = App()
    release = asyncio.Event()

    @app.websocket("/slow", message=Say, limits=Limits(rate_per_s=0))
    class Slow(Endpoint):
        async def on_message(self, client: Client, message: Say) -> None:
            await release.wait()

    node = await start_node(app, server__connection_timeout_ms=150, server__heartbeat_interval_ms=50)
    peer = await open_peer(node, "/slow")
    for _ in range(100):
        await peer.send({"type": "say", "text": "x"})
    (connection,) = node.registry.connections
    while not connection.handler.held_back:
        await asyncio.sleep(0.01)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < 0.6:
        assert (await peer.next())["type"] == "heartbeat"
    release.set()
    assert peer.socket.close_code is None
