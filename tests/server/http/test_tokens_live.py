"""Tokens on real handshakes: where they may stand, what is refused, what they allow, and that they leave no trace."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.server.live_node import OpenPeer, StartNode
from tests.support.server.raw_peer import RawPeer, upgrade
from trunkline.logs import configure
from trunkline.server.node.node import Node
from trunkline.settings.channels import ChannelRule
from trunkline.settings.secret import Secret
from trunkline.settings.sections import LogSettings

KEY = "0123456789abcdef0123456789abcdef"
HS = {"auth__algorithms": ("HS256",), "auth__secret": Secret(KEY)}


def token(key: Any = KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode({"sub": "u1", "exp": time.time() + 60, **claims}, key, algorithm=algorithm, headers=headers)


async def status_of(node: Node, path: str = "/ws", **headers: str) -> int:
    """The status of a handshake with these headers."""
    peer = await RawPeer.connect(node.port)
    await peer.send(upgrade(path, {name.replace("_", "-"): value for name, value in headers.items()}))
    answer = await peer.answer()
    peer.close()
    if answer.status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    return answer.status


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(token(exp=time.time() - 60), id="expired"),
        pytest.param(token(nbf=time.time() + 86_400), id="not yet valid"),
        pytest.param(token("another key of at least 32 bytes!!"), id="wrong key"),
        pytest.param(jwt.encode({"sub": "u1"}, None, algorithm="none"), id="alg none"),
        pytest.param(token(algorithm="HS512", key=KEY * 2), id="algorithm that is not allowed"),
        pytest.param(token()[:-3], id="cut"),
        pytest.param("nonsense", id="no token at all"),
        pytest.param("x" * 9000, id="too long"),
    ],
)
async def test_bad_tokens_are_401(start_node: StartNode, bad: str) -> None:
    """A token that is not accepted refuses the handshake, also where anonymous clients are welcome."""
    node = await start_node(**HS)
    assert await status_of(node) == 101
    assert await status_of(node, Authorization=f"Bearer {bad}") == 401
    assert await status_of(node, f"/ws?token={bad}") == 401
    assert await status_of(node, Sec_WebSocket_Protocol=f"bearer.{bad}, other") == 401
    assert node.runtime.meter.connections_failed.values == {("unauthorized",): 3}


async def test_a_token_may_stand_in_three_places(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Header, query and subprotocol; the latter is answered with the subprotocol `trunkline`."""
    node = await start_node(**HS, auth__required=True)
    assert await status_of(node) == 401
    one = await open_peer(node, additional_headers={"Authorization": f"Bearer {token(sub='a')}"})
    assert one.socket.subprotocol is None
    await open_peer(node, f"/ws?token={token(sub='b')}")
    three = await open_peer(node, subprotocols=[f"bearer.{token(sub='c')}", "trunkline"])
    assert three.socket.subprotocol == "trunkline"
    assert {connection.identity.subject for connection in node.registry.connections} == {"a", "b", "c"}


async def test_rules_by_claims(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`user.{sub}.*` is for that subject alone; dots or stars in a claim widen nothing; nobody matches without it."""
    rules = (
        ChannelRule("user.{sub}.*", subscribe="anyone", publish="role=writer"),
        ChannelRule("staff.*", subscribe=("role=admin", "role=writer")),
        ChannelRule("members", subscribe="authenticated"),
    )
    node = await start_node(**HS, channels__rules=rules)

    async def may(peer: Any, channel: str, kind: str = "subscribe") -> bool:
        message = {"channels": [channel]} if kind == "subscribe" else {"channel": channel, "data": 1}
        await peer.send({"type": kind, **message})
        while (answer := await peer.next())["type"] not in ("error", "subscription_ack", "publish_ack"):
            pass
        return answer["type"] != "error"

    u1 = await open_peer(node, f"/ws?token={token(role='writer')}")
    assert [await may(u1, name) for name in ("user.u1.inbox", "user.u2.inbox", "user.u1", "user.u1.a.b")] == [
        True, False, False, False,
    ]  # fmt: skip
    assert await may(u1, "user.u1.inbox", "publish")
    assert await may(u1, "staff.a")
    assert await may(u1, "members")
    anonymous = await open_peer(node)
    assert [await may(anonymous, name) for name in ("user.u1.inbox", "staff.a", "members")] == [False] * 3
    wild = await open_peer(node, f"/ws?token={token(sub='*')}")
    assert not await may(wild, "user.u1.inbox")
    dotted = await open_peer(node, f"/ws?token={token(sub='u1.inbox')}")
    assert not await may(dotted, "user.u1.inbox")


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_public_key_files(start_node: StartNode, tmp_path: Path, algorithm: str) -> None:
    """Tokens of the private key are accepted; the public key as an HMAC secret is not."""
    make = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    key, other = make[algorithm](), make[algorithm]()
    file = tmp_path / "key.pem"
    file.write_bytes(pem(key))
    node = await start_node(auth__algorithms=(algorithm,), auth__public_key_file=file, auth__required=True)
    assert await status_of(node, Authorization=f"Bearer {token(key, algorithm)}") == 101
    assert await status_of(node, Authorization=f"Bearer {token(other, algorithm)}") == 401
    assert await status_of(node, Authorization=f"Bearer {token()}") == 401


async def test_keys_from_an_address(start_node: StartNode, unused_tcp_port: int) -> None:
    """Keys come from a JWKS address; one fetch serves all; unknown key ids are refused without a fetch for each."""
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    fetches = 0

    async def serve(_: web.Request) -> web.Response:
        nonlocal fetches
        fetches += 1
        return web.json_response({"keys": [{**jwk, "kid": "k1", "use": "sig", "alg": "ES256"}]})

    app = web.Application()
    app.router.add_get("/keys", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        node = await start_node(
            auth__algorithms=("ES256",), auth__jwks_url=f"http://127.0.0.1:{unused_tcp_port}/keys", auth__required=True
        )
        for _ in range(3):
            given = token(key, "ES256", {"kid": "k1"})
            assert await status_of(node, Authorization=f"Bearer {given}") == 101
        assert await status_of(node, Authorization=f"Bearer {token(other, 'ES256', {'kid': 'k1'})}") == 401
        for number in range(5):
            made_up = token(other, "ES256", {"kid": f"made-up-{number}"})
            assert await status_of(node, Authorization=f"Bearer {made_up}") == 401
        assert fetches == 1
    finally:
        await runner.cleanup()


async def test_keys_that_cannot_be_fetched_are_no_ones_fault(start_node: StartNode, unused_tcp_port: int) -> None:
    """While no key was ever had a token gets 503 with Retry-After, not 401; the node itself is up."""
    node = await start_node(auth__algorithms=("ES256",), auth__jwks_url=f"http://127.0.0.1:{unused_tcp_port}/keys")
    given = token(ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": "k1"})
    assert await status_of(node) == 101
    for _ in range(3):
        assert await status_of(node, Authorization=f"Bearer {given}") == 503
    assert node.runtime.meter.connections_failed.values == {("keys_unavailable",): 3}


async def test_tokens_leave_no_trace(start_node: StartNode, open_peer: OpenPeer, caplog: Any) -> None:
    """No token stands in logs, in the paths of connections, or in what a client is told."""
    out = io.StringIO()
    configure.configure(LogSettings(level="debug", format="json"), stream=out)
    try:
        node = await start_node(**HS, log__access=True)
        good, bad = token(), token(exp=time.time() - 60)
        peers = [
            await open_peer(node, f"/ws?a=1&token={good}&b=2"),
            await open_peer(node, additional_headers={"Authorization": f"Bearer {good}"}),
            await open_peer(node, subprotocols=[f"bearer.{good}", "trunkline"]),
            await open_peer(node, f"/ws/chat/me?token={good}&room=r"),
        ]
        assert await status_of(node, f"/ws?token={bad}") == 401
        assert await status_of(node, Sec_WebSocket_Protocol=f"bearer.{bad}") == 401
        assert await status_of(node, f"/nowhere?token={good}") == 404
        targets = [connection.identity.target for connection in node.registry.connections]
        assert not any("token" in target for target in targets)
        assert any(target == "/ws?a=1&b=2" for target in targets)
        for peer in peers:
            await peer.send({"type": "nonsense"})
            await peer.skip_to("error")
            await peer.socket.close()
        await node.stop(drain_ms=0, deadline_ms=300)
        written = out.getvalue()
        assert '"handshake_refused"' in written
        assert '"connection"' in written
        for part in (good, bad, good.split(".")[2], bad.split(".")[2], KEY):
            assert part not in written
            assert all(part not in str(message) for peer in peers for message in peer.seen)
    finally:
        configure.close()
