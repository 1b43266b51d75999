"""Tokens that expire while their clients are connected: the warning, the fresh token, the end, and who gets a 101."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.exceptions import InvalidStatus

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, Peer, StartNode
from trunkline import App, Client, Endpoint, Refused
from trunkline.server.app import refreshing, stock
from trunkline.server.node.node import Node
from trunkline.settings.channels import ChannelRule
from trunkline.settings.secret import Secret

KEY = "0123456789abcdef0123456789abcdef"
HS = {"auth__algorithms": ("HS256",), "auth__secret": Secret(KEY)}
RULES = (ChannelRule("staff.*", subscribe="role=staff", publish="anyone"), ChannelRule("user.{sub}.*", "anyone"))


class WhoAmI(msgspec.Struct, tag="whoami"):
    """A question of the test's application."""


def token(lasts_s: float | None = 3600.0, **claims: Any) -> str:
    """A token of `u1`; its `exp` may have a fraction (RFC 7519 section 2, NumericDate)."""
    exp = {} if lasts_s is None else {"exp": round(time.time() + lasts_s, 3)}
    return jwt.encode({"sub": "u1", **exp, **claims}, KEY, algorithm="HS256")


async def open_with(open_peer: OpenPeer, node: Node, given: str, path: str = "/ws", **options: Any) -> Peer:
    return await open_peer(node, path, subprotocols=["trunkline", f"bearer.{given}"], **options)


# --- the warning and the end ------------------------------------------------------------------------------------------


async def test_a_warning_then_4002(start_node: StartNode, open_peer: OpenPeer) -> None:
    """At half the life of a short token comes the warning, at its end goodbye and 4002; the client may come back.

    The position that it kept goes on.
    """
    node = await start_node(**HS)
    peer = await open_with(open_peer, node, token(3.0))
    ack = await peer.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    warning = await peer.expect("token_expiring", 10.0)
    assert warning.keys() == {"type", "expires_in_ms", "ts"}
    assert 0 < warning["expires_in_ms"] <= 1500
    assert await peer.closed(10.0) == (4002, "the token has expired")
    goodbye = peer.seen[-1]
    assert (goodbye["type"], goodbye["code"], goodbye["reconnect"]) == ("goodbye", 4002, True)
    assert node.runtime.meter.disconnects.values[("token_expired", "server")] == 1

    await node.hub.publish("public.a", b"1")
    again = await open_with(open_peer, node, token())
    position = {key: ack["positions"]["public.a"][key] for key in ("epoch", "offset")}
    request = {"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": position}}
    recovered = await again.ask(request, "subscription_ack")
    assert recovered["positions"]["public.a"]["recovered"]
    assert (await again.expect("publication"))["data"] == 1


async def test_a_refresh_keeps_the_connection_and_its_subscriptions(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The answer says when the fresh token ends; the old one's end passes, and publications go on."""
    node = await start_node(**HS)
    peer = await open_with(open_peer, node, token(2.5))
    await peer.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    await peer.expect("token_expiring", 10.0)
    fresh = token(3600.0, role="staff")
    ack = await peer.ask({"type": "refresh", "id": 7, "token": fresh}, "refresh_ack")
    exp = jwt.decode(fresh, options={"verify_signature": False})["exp"]
    assert (ack["id"], ack["expires_at"]) == (7, int(exp * 1000))
    connection = next(iter(node.registry.connections))
    assert connection.identity.claims["role"] == "staff"
    assert connection.token is not None
    assert connection.token.ends_at > node.runtime.clock.now + 3000
    await asyncio.sleep(2.0)  # longer than the first token held
    await node.hub.publish("public.a", b"1")
    assert (await peer.expect("publication"))["data"] == 1
    assert connection.slot >= 0, "its time-outs wait in the wheel"


async def test_a_token_without_end_ends_the_waiting(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`expires_at` is null then; `auth.require_exp` refuses such tokens at the handshake and at a refresh."""
    node = await start_node(**HS)
    peer = await open_with(open_peer, node, token(60))
    ack = await peer.ask({"type": "refresh", "token": token(None)}, "refresh_ack")
    assert ack["expires_at"] is None
    assert next(iter(node.registry.connections)).token is None

    strict = await start_node(**HS, auth__require_exp=True)
    with pytest.raises(InvalidStatus) as caught:
        await open_peer(strict, f"/ws?token={token(None)}")
    assert caught.value.response.status_code == 401
    peer = await open_with(open_peer, strict, token(60))
    await peer.send({"type": "refresh", "token": token(None)})
    assert await peer.closed() == (4001, "the token is not accepted")


async def test_an_endpoint_without_envelope_is_closed_without_a_word(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """It has no messages for a warning or a goodbye."""
    node = await start_node(**HS)
    peer = await open_with(open_peer, node, token(1.5), "/ws/echo", greet=False)
    assert await peer.closed(10.0) == (4002, "the token has expired")
    assert peer.seen == []


async def test_a_token_within_the_leeway_holds_until_it_is_over(start_node: StartNode, open_peer: OpenPeer) -> None:
    """What the handshake accepts is not thrown out at once: the client would come back with it, again and again."""
    node = await start_node(**HS, auth__leeway_s=60.0)
    await open_with(open_peer, node, token(-10.0))
    life = next(iter(node.registry.connections)).token
    assert life is not None
    assert 30 < life.ends_at - node.runtime.clock.now <= 50


# --- refreshes that are refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: "nonsense", "the token is not accepted"),
        (lambda: jwt.encode({"sub": "u1"}, KEY[::-1], algorithm="HS256"), "the token is not accepted"),
        (lambda: token(sub="u2"), "the fresh token is not of this client"),
        (lambda: token(iss="https://elsewhere.example"), "the fresh token is not of this client"),
    ],
    ids=["garbage", "another key", "another subject", "another issuer"],
)
async def test_a_refused_token_ends_the_connection(
    start_node: StartNode, open_peer: OpenPeer, bad: Any, reason: str
) -> None:
    """With goodbye and 4001, as a handshake with it would have."""
    node = await start_node(**HS)
    peer = await open_with(open_peer, node, token())
    await peer.send({"type": "refresh", "id": 1, "token": bad()})
    assert await peer.closed() == (4001, reason)
    assert (peer.seen[-1]["type"], peer.seen[-1]["code"], peer.seen[-1]["reconnect"]) == ("goodbye", 4001, False)


@pytest.mark.parametrize("bad", [{"lasts_s": -60.0}, {"nbf": time.time() + 86_400}], ids=["expired", "not valid yet"])
async def test_a_token_at_the_wrong_time_leaves_the_one_in_use(
    start_node: StartNode, open_peer: OpenPeer, bad: dict[str, Any]
) -> None:
    """A token function may hand out what it has kept too long, and clocks differ: a temporary error."""
    node = await start_node(**HS)
    peer = await open_with(open_peer, node, token())
    error = await peer.ask({"type": "refresh", "id": 1, "token": token(**bad)}, "error")
    assert (error["id"], error["code"], error["temporary"], error["retry_after_ms"]) == (1, "UNAUTHORIZED", True, 1000)
    assert "the token in use holds" in error["message"]
    await peer.ask({"type": "refresh", "token": token()}, "refresh_ack")


async def test_who_came_without_a_token_has_none_to_refresh(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Neither where tokens are read nor where they are not; the connection goes on."""
    for node in (await start_node(**HS), await start_node()):
        peer = await open_peer(node)
        error = await peer.ask({"type": "refresh", "id": "a", "token": token()}, "error")
        assert (error["id"], error["code"]) == ("a", "FORBIDDEN")
        await peer.ask({"type": "heartbeat"}, "pong")


async def test_refreshes_are_limited(start_node: StartNode, open_peer: OpenPeer, monkeypatch: Any) -> None:
    """Each costs a signature: above the limit a temporary error, whatever rate the endpoint takes."""
    monkeypatch.setattr(refreshing, "REFRESH_BURST", 3.0)
    monkeypatch.setattr(refreshing, "REFRESH_PER_S", 0.01)
    node = await start_node(**HS, limits__rate_per_s=0.0)
    peer = await open_with(open_peer, node, token())
    for _ in range(3):
        await peer.ask({"type": "refresh", "token": token()}, "refresh_ack")
    error = await peer.ask({"type": "refresh", "id": 1, "token": "nonsense"}, "error")
    assert (error["id"], error["code"], error["temporary"]) == (1, "RATE_LIMIT_EXCEEDED", True)
    assert error["retry_after_ms"] > 0


async def test_subscriptions_that_the_fresh_claims_do_not_allow_end(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Those of the rules alone: what the application subscribed stays, and so does what both tokens allow."""
    app = stock.create()
    node = await start_node(app, **HS, channels__rules=RULES)
    peer = await open_with(open_peer, node, token(role="staff"))
    names = ["staff.a", "staff.b", "user.u1.x", "public.a"]
    await peer.ask({"type": "subscribe", "channels": names}, "subscription_ack")
    connection = next(iter(node.registry.connections))
    await node.hub.attach("secret.a")
    hidden = node.hub.channels["secret.a"]
    node.hub.add(hidden, connection)  # as `Client.join` does, whatever the rules say

    await peer.ask({"type": "refresh", "token": token()}, "refresh_ack")
    ended = [await peer.expect("unsubscribed") for _ in range(2)]
    assert [(each["channel"], each["code"]) for each in ended] == [("staff.a", "FORBIDDEN"), ("staff.b", "FORBIDDEN")]
    assert {channel.name for channel in connection.channels} == {"user.u1.x", "public.a", "secret.a"}
    await peer.ask({"type": "publish", "channel": "staff.a", "data": 1}, "publish_ack")
    await peer.ask({"type": "heartbeat"}, "pong")  # and the publication did not come
    error = await peer.ask({"type": "subscribe", "channels": ["staff.a"]}, "error")
    assert error["code"] == "FORBIDDEN"


async def test_an_application_sees_the_claims_of_the_token_in_use(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`client.claims` changes with the refresh; `client.subject` never does."""
    app = App()

    @app.websocket("/app", message=WhoAmI)
    class Who(Endpoint):
        def on_message(self, client: Client, message: WhoAmI) -> None:
            client.send({"type": "you", "role": client.claims.get("role"), "subject": client.subject})

    node = await start_node(app, **HS)
    peer = await open_with(open_peer, node, token(role="a"), "/app")
    assert (await peer.ask({"type": "whoami"}, "you"))["role"] == "a"
    await peer.ask({"type": "refresh", "token": token(role="b")}, "refresh_ack")
    assert (await peer.ask({"type": "whoami"}, "you")) == {"type": "you", "role": "b", "subject": "u1"}


async def test_a_key_that_is_not_known_yet(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """Keys were rotated a moment ago: the refresh is a temporary error, and a handshake is told when to come back."""
    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    keys = {"keys": [{**jwt.algorithms.ECAlgorithm.to_jwk(old.public_key(), as_dict=True), "kid": "old"}]}

    async def serve(_: web.Request) -> web.Response:
        return web.json_response(keys)

    site = web.Application()
    site.router.add_get("/keys", serve)
    runner = web.AppRunner(site)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        node = await start_node(auth__algorithms=("ES256",), auth__jwks_url=f"http://127.0.0.1:{unused_tcp_port}/keys")

        def made(key: Any, kid: str) -> str:
            return jwt.encode({"sub": "u1", "exp": int(time.time()) + 60}, key, "ES256", {"kid": kid})

        peer = await open_with(open_peer, node, made(old, "old"))
        await peer.ask({"type": "refresh", "token": made(old, "old")}, "refresh_ack")
        error = await peer.ask({"type": "refresh", "id": 3, "token": made(new, "new")}, "error")
        assert (error["id"], error["code"], error["temporary"]) == (3, "UNAUTHORIZED", True)
        assert 0 < error["retry_after_ms"] <= 30_000
        early = await open_with(open_peer, node, made(new, "new"), greet=False)
        goodbye = await early.expect("goodbye")
        assert (goodbye["code"], goodbye["reconnect"]) == (1013, True)
        assert 0 < goodbye["reconnect_after_ms"] <= 30_000
        with pytest.raises(InvalidStatus) as caught:
            await open_peer(node, f"/ws?token={made(new, 'new')}")
        assert caught.value.response.status_code == 401
        assert 1 <= int(caught.value.response.headers["Retry-After"]) <= 30
    finally:
        await runner.cleanup()


# --- handshakes that are refused --------------------------------------------------------------------------------------


async def test_a_bad_token_with_our_subprotocol_is_101_then_4001(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A browser cannot see a 401. No endpoint hears of the client, which is counted as refused."""
    seen = []
    app = App()

    @app.websocket("/app")
    class Watching(Endpoint):
        def on_connect(self, client: Client) -> None:
            seen.append("connect")

        def on_disconnect(self, client: Client, code: int, reason: str) -> None:
            seen.append("disconnect")

    node = await start_node(app, **HS, server__subprotocols=("mine",))
    for bad in ("nonsense", token(-60.0)):
        peer = await open_peer(node, "/app", greet=False, subprotocols=["mine", f"bearer.{bad}", "trunkline"])
        assert peer.socket.subprotocol == "trunkline"
        code, reason = await peer.closed()
        assert code == 4001
        assert [message["type"] for message in peer.seen] == ["goodbye"]
        assert (peer.seen[0]["code"], peer.seen[0]["reason"], peer.seen[0]["reconnect"]) == (4001, reason, False)
    assert reason == "the token has expired"
    header = {"Authorization": "Bearer nonsense"}
    peer = await open_peer(node, "/app", greet=False, subprotocols=["trunkline"], additional_headers=header)
    assert await peer.closed() == (4001, "the token is not accepted")
    with pytest.raises(InvalidStatus) as caught:
        await open_peer(node, "/app", greet=False, subprotocols=["mine", "bearer.nonsense"])
    assert caught.value.response.status_code == 401
    assert seen == []
    assert node.runtime.meter.connections_failed.values == {("unauthorized",): 4}
    async with asyncio.timeout(patient(5.0)):
        while node.registry.connections:
            await asyncio.sleep(0.01)


async def test_who_is_turned_away_takes_a_share_of_the_places(start_node: StartNode, open_peer: OpenPeer) -> None:
    """One that does not answer the close frame keeps its place for a while; above the share others get their 401.

    Clients with a token still come in, and nothing is inflated for those without.
    """
    node = await start_node(**HS, server__max_connections=32, server__close_timeout_ms=60_000)
    bad = "trunkline, bearer.nonsense"
    writers = []
    for expected in (b"101", b"101", b"401"):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writers.append(writer)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
            b"Sec-WebSocket-Protocol: " + bad.encode() + b"\r\n\r\n"
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patient(5.0))
        assert head.split()[1] == expected
        assert b"permessage-deflate" not in head
    peer = await open_with(open_peer, node, token())
    await peer.ask({"type": "heartbeat"}, "pong")
    for writer in writers:
        writer.transport.abort()
    async with asyncio.timeout(patient(5.0)):
        while len(node.registry.connections) > 1:
            await asyncio.sleep(0.01)
    again = await open_peer(node, greet=False, subprotocols=bad.split(", "))
    assert (await again.closed())[0] == 4001


async def test_every_401_is_told_so(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A token that is missing, and an application that refuses with 401, at once or after a while."""
    app = App()

    @app.websocket("/now")
    class Now(Endpoint):
        def admit(self, request: Any) -> None:
            raise Refused(401, "no key")

    @app.websocket("/later")
    class Later(Endpoint):
        async def admit(self, request: Any) -> None:
            await asyncio.sleep(0)
            raise Refused(401, "no key")

    @app.websocket("/forbidden")
    class Forbidden(Endpoint):
        def admit(self, request: Any) -> None:
            raise Refused(403, "not you")

    node = await start_node(app)
    for path in ("/now", "/later"):
        peer = await open_peer(node, path, greet=False, subprotocols=["trunkline"])
        assert await peer.closed() == (4001, "no key")
    with pytest.raises(InvalidStatus) as caught:
        await open_peer(node, "/forbidden", greet=False, subprotocols=["trunkline"])
    assert caught.value.response.status_code == 403
    strict = await start_node(**HS, auth__required=True)
    peer = await open_peer(strict, greet=False, subprotocols=["trunkline"])
    assert await peer.closed() == (4001, "a token is required")
