"""A node takes over reloaded settings: every setting of the table has its effect, and connections stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode, settings_with
from tests.support.server.raw_peer import RawPeer, upgrade
from trunkline.errors import SettingsError
from trunkline.server.node.node import Node
from trunkline.settings.channels import ChannelRule
from trunkline.settings.reloaded import NODE, RELOADED
from trunkline.settings.secret import Secret

OLD, NEW = "old-0123456789abcdef0123456789abcdef", "new-0123456789abcdef0123456789abcdef"
RULES = (ChannelRule("shop.**", subscribe="anyone"),)

Look = Callable[[Node], Any]


def _limits(node: Node) -> Any:
    return node._admission.routes[0].limits


def _served_as(node: Node, host: str) -> bool:
    return not any(hosts.refusal(host, False) for hosts in (node._hosts, node._admin_hosts))


def _exempt(node: Node) -> list[int]:
    return [len(part._limiter._exempt) for part in (node._admission, node._pages)]


def _longest_names(node: Node) -> list[int]:
    return [part._rules.max_name_bytes for part in (node._requests, node.admin)]


def _has_aliases(node: Node) -> bool:
    return any(family.name.startswith("websocket_") for family in node._reports.families())


def _auth(node: Node) -> Any:
    assert node.verifier is not None
    return node.verifier._auth


EFFECTS: dict[str, tuple[Any, Look, Any]] = {
    "server.max_connections": (7, lambda node: node.state.capacity, 7),
    "server.memory_base_bytes": (1 << 40, lambda node: node.state.capacity, 100),
    "server.memory_per_connection_bytes": (1 << 30, lambda node: node.state.capacity, 100),
    "server.heartbeat_interval_ms": (70, lambda node: node.runtime.bounds.heartbeat_s, 0.07),
    "server.connection_timeout_ms": (70, lambda node: node.runtime.bounds.connection_timeout_s, 0.07),
    "server.handshake_timeout_ms": (70, lambda node: node.data_port.pending.timeout_s, 0.07),
    "server.close_timeout_ms": (70, lambda node: node.runtime.bounds.close_timeout_s, 0.07),
    "server.work_grace_ms": (70, lambda node: node.runtime.bounds.work_grace_s, 0.07),
    "server.message_bytes": (700, lambda node: _limits(node).message_bytes, 700),
    "server.header_bytes": (7000, lambda node: node.data_port._header_bytes, 7000),
    "server.drain_ms": (70, lambda node: node.settings.server.drain_ms, 70),
    "server.shutdown_deadline_ms": (70, lambda node: node.settings.server.shutdown_deadline_ms, 70),
    "server.deflate": (False, lambda node: node._admission._settings.server.deflate, False),
    "server.origins": (("https://a.example",), lambda node: len(node._admission._settings.server.origins), 1),
    "server.hosts": (("a.example",), lambda node: _served_as(node, "a.example"), True),
    "server.trusted_proxies": (("10.0.0.7",), lambda node: len(node.data_port.trusted_proxies), 1),
    "server.metrics_networks": (("10.0.0.7",), lambda node: len(node._pages._metrics_networks), 1),
    "server.subprotocols": (("chat",), lambda node: node._admission._subprotocols, ("chat", "trunkline")),
    "limits.rate_burst": (7.0, lambda node: _limits(node).rate_burst, 7.0),
    "limits.rate_per_s": (7.0, lambda node: _limits(node).rate_per_s, 7.0),
    "limits.control_burst": (7.0, lambda node: node.runtime.bounds.control_burst, 7.0),
    "limits.control_per_s": (7.0, lambda node: node.runtime.bounds.control_per_s, 7.0),
    "limits.handshake_burst": (7.0, lambda node: node._admission._limiter._burst, 7.0),
    "limits.handshake_per_s": (7.0, lambda node: node._admission._limiter._per_s, 7.0),
    "limits.http_burst": (7.0, lambda node: node._pages._limiter._burst, 7.0),
    "limits.http_per_s": (7.0, lambda node: node._pages._limiter._per_s, 7.0),
    "limits.exempt": (("10.0.0.7",), _exempt, [1, 1]),
    "limits.outbox_bytes": (7000, lambda node: _limits(node).outbox_bytes, 7000),
    "limits.outbox_grace_ms": (70, lambda node: node.runtime.bounds.outbox_grace_s, 0.07),
    "limits.channels_per_client": (7, lambda node: node._requests._max_channels, 7),
    "limits.channel_name_bytes": (7, _longest_names, [7, 7]),
    "limits.accept_per_s": (7.0, lambda node: node.state.accept_headroom, 7.0),
    "limits.loop_lag_shed_ms": (70, lambda node: node.state._shedder._lag_shed_s, 0.07),
    "channels.rules": ((), lambda node: node._requests._rules.may_subscribe("shop.a", None), False),
    "auth.algorithms": ((), lambda node: node.verifier, None),
    "auth.secret": (Secret(NEW), lambda node: node.verifier._secret, NEW),
    "auth.issuer": ("a", lambda node: _auth(node).issuer, "a"),
    "auth.audience": ("a", lambda node: _auth(node).audience, "a"),
    "auth.leeway_s": (7.0, lambda node: _auth(node).leeway_s, 7.0),
    "auth.required": (True, lambda node: node._admission._settings.auth.required, True),
    "auth.require_exp": (True, lambda node: _auth(node).require_exp, True),
    "metrics.aliases": (("websocket",), _has_aliases, True),
}  # fmt: skip
"""Of each setting another value, where its effect is seen, and what is seen then."""

SEEN_ELSEWHERE = {
    "auth.secret_file", "auth.public_key_file", "auth.jwks_url", "log.level", "admin.token", "admin.token_file",
    "admin.tokens",
}  # fmt: skip
"""Settings whose effect has a test of its own."""


async def reload(node: Node, **changes: Any) -> None:
    """Have a node take over these settings."""
    (await node.prepare(settings_with(**changes)))()


def test_every_setting_of_the_table_has_its_look() -> None:
    """A row that does nothing would be noticed."""
    rows = {key for key in RELOADED if key.partition(".")[0] in NODE}
    assert rows == EFFECTS.keys() | SEEN_ELSEWHERE
    assert not EFFECTS.keys() & SEEN_ELSEWHERE


@pytest.mark.parametrize("key", EFFECTS)
async def test_it_counts_after_a_reload_and_not_before_it_is_taken_over(start_node: StartNode, key: str) -> None:
    """Preparing alone changes nothing, for another part may be refused yet."""
    value, look, seen = EFFECTS[key]
    base: dict[str, Any] = {
        "auth__algorithms": ("HS256",), "auth__secret": Secret(OLD), "channels__rules": RULES,
        "server__memory_limit_bytes": 1 << 30,
    }  # fmt: skip
    node = await start_node(**base)
    assert look(node) != seen
    take_over = await node.prepare(settings_with(**base | {key.replace(".", "__"): value}))
    assert look(node) != seen
    take_over()
    assert look(node) == seen


async def handshake(node: Node, path: str = "/ws", **headers: str) -> int:
    """The status of a handshake."""
    peer = await RawPeer.connect(node.port)
    await peer.send(upgrade(path, headers))
    answer = await peer.answer()
    peer.close()
    return answer.status


async def test_origins_change_while_clients_stay(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Who is connected stays, from an origin that may connect no more as well."""
    node = await start_node(server__origins=("https://old.example",))
    peer = await open_peer(node, origin="https://old.example")
    await reload(node, server__origins=("https://new.example",))
    assert await handshake(node, Origin="https://new.example") == 101
    assert await handshake(node, Origin="https://old.example") == 403
    await peer.ask({"type": "heartbeat"}, "pong")


async def test_limits_of_messages_are_those_of_the_handshake(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Each client keeps the limits that its greeting named."""
    node = await start_node(server__message_bytes=1000, limits__rate_burst=100.0)
    before = await open_peer(node)
    await reload(node, server__message_bytes=200, limits__rate_burst=2.0, limits__rate_per_s=0.001)
    after = await open_peer(node)
    assert after.seen[0]["limits"] == {"message_bytes": 200, "rate_burst": 2.0, "rate_per_s": 0.001}
    for _ in range(5):
        await before.ask({"type": "subscribe", "channels": ["public.a"], "pad": "x" * 500}, "subscription_ack")
    for _ in range(2):
        await after.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    refused = await after.ask({"type": "subscribe", "channels": ["public.a"]}, "error")
    assert refused["code"] == "RATE_LIMIT_EXCEEDED"
    await after.send("x" * 300)
    assert (await after.closed())[0] == 1009


async def test_rules_decide_the_next_request(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A subscription that exists stays; the next one is decided by the new rules."""
    node = await start_node(channels__rules=RULES)
    peer = await open_peer(node)
    await peer.ask({"type": "subscribe", "channels": ["shop.a"]}, "subscription_ack")
    await reload(node, channels__rules=(ChannelRule("shop.**", subscribe="authenticated"),))
    refused = await peer.ask({"type": "subscribe", "channels": ["shop.b"]}, "error")
    assert refused["code"] == "FORBIDDEN"
    await node.hub.publish("shop.a", b"1")
    assert (await peer.expect("publication"))["data"] == 1


def token(key: Any, algorithm: str = "HS256", kid: str | None = None) -> str:
    headers = {"kid": kid} if kid else None
    return jwt.encode({"sub": "u", "exp": time.time() + 60}, key, algorithm=algorithm, headers=headers)


async def accepts(node: Node, token: str) -> bool:
    """Whether a handshake with this token is let in."""
    return await handshake(node, Authorization=f"Bearer {token}") == 101


async def test_a_secret_file_is_read_again(start_node: StartNode, tmp_path: Path) -> None:
    """Though its name is the same; the old key opens nothing more, and who is connected stays."""
    file = tmp_path / "key"
    file.write_text(OLD)
    settings: dict[str, Any] = {"auth__algorithms": ("HS256",), "auth__secret_file": file}
    node = await start_node(**settings)
    assert await accepts(node, token(OLD))
    file.write_text(NEW)
    assert await accepts(node, token(OLD))
    await reload(node, **settings)
    assert await accepts(node, token(NEW))
    assert not await accepts(node, token(OLD))


async def test_tokens_are_read_by_a_node_that_read_none(start_node: StartNode) -> None:
    """Its keys come with the reload, and go with one."""
    node = await start_node()
    await reload(node, auth__algorithms=("HS256",), auth__secret=Secret(NEW), auth__required=True)
    assert await handshake(node) == 401
    assert await accepts(node, token(NEW))
    await reload(node)
    assert await handshake(node) == 101


async def test_a_key_that_cannot_be_used_changes_nothing(start_node: StartNode, tmp_path: Path) -> None:
    """Not the key, and not the origins beside it."""
    file = tmp_path / "key"
    file.write_text(OLD)
    settings: dict[str, Any] = {"auth__algorithms": ("HS256",), "auth__secret_file": file}
    node = await start_node(**settings)
    file.write_text("short")
    with pytest.raises(SettingsError, match="at least 32 bytes"):
        await node.prepare(settings_with(**settings, server__origins=("https://a.example",)))
    assert await accepts(node, token(OLD))
    assert node.settings.server.origins == ()


class KeySet:
    """A server of a JSON Web Key Set, which can be away."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("one", "two")}
        self.published = ["one"]
        self.status = 200
        self.asked = 0

    async def start(self) -> str:
        app = web.Application()
        app.router.add_get("/keys", self._keys)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/keys"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _keys(self, request: web.Request) -> web.Response:
        self.asked += 1
        keys = [
            {**jwt.algorithms.ECAlgorithm.to_jwk(self.keys[name].public_key(), as_dict=True), "kid": name}
            for name in self.published
        ]
        return web.json_response({"keys": keys}, status=self.status)

    def token(self, name: str) -> str:
        return token(self.keys[name], "ES256", name)


async def test_a_key_set_is_fetched_again(start_node: StartNode) -> None:
    """At once; the keys at hand hold until it has come, and go on when it does not come."""
    server = KeySet()
    settings: dict[str, Any] = {"auth__algorithms": ("ES256",), "auth__jwks_url": await server.start()}
    node = await start_node(**settings)
    assert await accepts(node, server.token("one"))
    server.published = ["two"]
    await reload(node, **settings)
    assert node.verifier is not None
    assert node.verifier._remote is not None
    await node.verifier._remote.begin()
    assert await accepts(node, server.token("two"))
    assert not await accepts(node, server.token("one"))
    server.status = 500
    await reload(node, **settings)
    await node.verifier._remote.begin()
    assert await accepts(node, server.token("two"))
    await server.stop()


async def test_another_key_set_must_be_had(start_node: StartNode) -> None:
    """Else every client would be turned away until it can be."""
    server = KeySet()
    url = await server.start()
    node = await start_node(auth__algorithms=("HS256",), auth__secret=Secret(OLD))
    server.status = 500
    changes: dict[str, Any] = {"auth__algorithms": ("ES256",), "auth__jwks_url": url}
    with pytest.raises(SettingsError, match=r"auth\.jwks_url"):
        await node.prepare(settings_with(**changes))
    assert await accepts(node, token(OLD))
    server.status = 200
    await reload(node, **changes)
    assert await accepts(node, server.token("one"))
    await server.stop()


async def test_a_key_set_that_was_never_had_refuses_no_reload(start_node: StartNode) -> None:
    """Its address stays, so nothing becomes worse; and it is fetched once more."""
    server = KeySet()
    server.status = 500
    settings: dict[str, Any] = {"auth__algorithms": ("ES256",), "auth__jwks_url": await server.start()}
    node = await start_node(**settings)
    server.status = 200
    await reload(node, **settings, server__origins=("https://a.example",))
    assert await handshake(node, Origin="https://a.example") == 101
    async with asyncio.timeout(patient(10)):
        while not await accepts(node, server.token("one")):
            await asyncio.sleep(0.02)
    assert server.asked == 2
    await server.stop()


async def test_places_of_those_who_are_turned_away_grow_with_the_node(start_node: StartNode) -> None:
    """A sixteenth of its connections."""
    settings: dict[str, Any] = {"auth__algorithms": ("HS256",), "auth__secret": Secret(OLD), "auth__required": True}
    node = await start_node(**settings, server__max_connections=16)
    offers = {"Sec-WebSocket-Protocol": "trunkline"}
    peers = [await RawPeer.connect(node.port) for _ in range(3)]
    statuses = []
    for peer in peers:
        await peer.send(upgrade("/ws", offers))
        statuses.append((await peer.answer()).status)
        if len(statuses) == 2:
            await reload(node, **settings, server__max_connections=32)
    assert statuses == [101, 401, 101]
    for peer in peers:
        peer.close()


async def test_an_admin_token_rotates(start_node: StartNode, tmp_path: Path) -> None:
    """Its file is read again, on a connection that is open as well."""
    file = tmp_path / "token"
    file.write_text(OLD)
    settings: dict[str, Any] = {"admin__port": free_port(), "admin__token_file": file}
    node = await start_node(**settings)
    peer = await RawPeer.connect(node.admin.port)

    async def status(token: str) -> int:
        await peer.send(
            f"GET /api/channels HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        return (await peer.answer()).status

    assert (await status(OLD), await status(NEW)) == (200, 401)
    file.write_text(NEW)
    await reload(node, **settings)
    assert (await status(OLD), await status(NEW)) == (401, 200)
