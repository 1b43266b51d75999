"""The admin port: its token, each of its endpoints, and the command that publishes through it."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode
from tests.support.server.raw_peer import RawPeer, http, upgrade
from trunkline.errors import StartError
from trunkline.http1.requests import Request, Response
from trunkline.net.admin.kept import token_paths
from trunkline.net.admin.routes import NODE_ROUTES
from trunkline.net.admin.tokens import read_tokens
from trunkline.server.http import admin
from trunkline.server.http.http_connection import HttpConnection
from trunkline.server.node.node import Node
from trunkline.settings.admin import SCOPES, AdminSettings, ScopedToken
from trunkline.settings.secret import Secret


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tokens that nodes keep go into a directory of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


async def ask(node: Node, method: str, path: str, body: Any = None, token: str | None = "") -> tuple[int, Any]:
    """One request; the node's own token unless another is given. Returns status and JSON."""
    headers = {} if token is None else {"Authorization": f"Bearer {token or node.admin.token}"}
    data = body if isinstance(body, (bytes, str)) or body is None else None
    payload = {"data": data} if data is not None else {"json": body} if body is not None else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{node.admin.port}{path}", headers=headers, **payload) as response,
    ):
        return response.status, await response.json(content_type=None)


async def test_every_endpoint_needs_the_token(start_node: StartNode, unused_tcp_port: int) -> None:
    """Without it or with a wrong one: 401 and nothing done. The data port knows nothing of these paths."""
    node = await start_node(admin__port=unused_tcp_port)
    for method, path in [
        ("POST", "/api/publish"), ("GET", "/api/channels"), ("GET", "/api/connections"),
        ("POST", "/api/connections/x/disconnect"), ("POST", "/api/drain"), ("DELETE", "/api/drain"),
        ("POST", "/api/move"), ("GET", "/api/keys"), ("GET", "/nothing"),
    ]:  # fmt: skip
        for token in (None, "wrong", node.admin.token + "x", node.admin.token[:-1]):
            status, answer = await ask(node, method, path, token=token)
            assert (status, answer["error"]) == (401, "unauthorized")
        assert (await http(node.port, path, method=method)).status in (404, 405)
    assert node.condition == "up"


async def test_publish(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """Any channel, any JSON; the receipt has the position that subscribers see. Malformed ones are 400."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await open_peer(node)
    await peer.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    status, receipt = await ask(node, "POST", "/api/publish", {"channel": "public.a", "data": {"n": 1}})
    assert status == 200
    got = await peer.expect("publication")
    assert got["data"] == {"n": 1}
    assert receipt == {"channel": "public.a", "epoch": got["epoch"], "offset": got["offset"]}
    assert (await ask(node, "POST", "/api/publish", {"channel": "private.b", "data": None}))[0] == 200
    assert (await ask(node, "POST", "/api/publish", {"channel": "presence.b", "data": 1}))[1]["offset"] is None
    deepest = b'{"channel":"public.a","data":' + b"[" * 63 + b"]" * 63 + b"}"
    assert (await ask(node, "POST", "/api/publish", deepest))[0] == 200
    for body in [
        {"channel": "a..b", "data": 1},
        {"channel": "a"},
        {"data": 1},
        {"channel": "a", "data": 1, "x": 2},
        b"{",
        b"",
        b'{"channel":"public.a","data":"\xff"}',
        b'{"channel":"public.a","data":' + b"[" * 64 + b"]" * 64 + b"}",
    ]:
        status, answer = await ask(node, "POST", "/api/publish", body)
        assert (status, answer["error"]) == (400, "bad_request"), body


async def test_channels_and_connections(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """Who is here, what they follow, and how much waits for them; never what they said."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await open_peer(node, "/ws?secret=1", greet=False)
    me = await peer.expect("connection_established")
    await peer.ask({"type": "subscribe", "channels": ["public.a", "public.b"]}, "subscription_ack")
    await peer.send({"type": "publish", "channel": "public.a", "data": "hush"})
    await peer.next()
    await peer.next()
    _, rows = await ask(node, "GET", "/api/connections")
    (row,) = rows
    assert set(row) == {
        "id", "session", "path", "address", "subject", "age_s", "idle_s", "channels", "bytes_in", "bytes_out",
        "waiting_bytes",
    }  # fmt: skip
    assert (row["id"], row["session"], row["path"]) == (me["connection_id"], me["session"], "/ws")
    assert (row["address"], row["subject"], row["channels"]) == ("127.0.0.1", None, ["public.a", "public.b"])
    assert row["bytes_in"] > 100
    assert row["bytes_out"] > 100
    _, channels = await ask(node, "GET", "/api/channels")
    found = {channel["name"]: channel for channel in channels}
    assert {name: channel["subscribers"] for name, channel in found.items()} == {"public.a": 1, "public.b": 1}
    assert found["public.a"]["offset"] == 1
    assert "hush" not in str(rows) + str(channels)


async def test_disconnect(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """The connection of an id is closed with 1000 and told not to come back; an unknown id is 404."""
    node = await start_node(admin__port=unused_tcp_port)
    peer, other = await open_peer(node, greet=False), await open_peer(node)
    me = await peer.expect("connection_established")
    assert await ask(node, "POST", f"/api/connections/{me['connection_id']}/disconnect") == (200, {"disconnected": 1})
    assert (await peer.closed())[0] == 1000
    assert (peer.seen[-1]["type"], peer.seen[-1]["reconnect"]) == ("goodbye", False)
    status, answer = await ask(node, "POST", f"/api/connections/{me['connection_id']}/disconnect")
    assert (status, answer["error"]) == (404, "not_found")
    await other.ask({"type": "heartbeat"}, "pong")


async def test_drain_and_its_end(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """A drain tells each client to move with 1012 and lets nobody in; its end spares who was not told."""
    node = await start_node(admin__port=unused_tcp_port)
    peers = [await open_peer(node) for _ in range(4)]
    status, answer = await ask(node, "POST", "/api/drain", {"over_ms": 200})
    assert (status, answer) == (200, {"node": node.name, "state": "draining", "connections": 4, "over_ms": 200})
    closes = await asyncio.gather(*(peer.closed() for peer in peers))
    assert closes == [(1012, "draining")] * 4
    hints = [peer.seen[-1]["reconnect_after_ms"] for peer in peers]
    assert all(peer.seen[-1]["type"] == "goodbye" and peer.seen[-1]["reconnect"] for peer in peers)
    assert all(isinstance(hint, int) and 0 <= hint < 10_000 for hint in hints)
    assert (await http(node.port, "/ready")).status == 503
    refused = await RawPeer.connect(node.port)
    await refused.send(upgrade())
    answer = await refused.answer()
    assert answer.status == 503
    assert "retry-after" in answer.headers
    refused.close()
    assert (await ask(node, "DELETE", "/api/drain"))[1]["state"] == "up"
    spared = [await open_peer(node) for _ in range(3)]
    # The first slot of a drain over ten hours is far away.
    assert (await ask(node, "POST", "/api/drain", {"over_ms": 36_000_000}))[1]["connections"] == 3
    await ask(node, "DELETE", "/api/drain")
    for peer in spared:
        await peer.ask({"type": "heartbeat"}, "pong")
    await open_peer(node)
    for body in [{"over_ms": -1}, {"over_ms": "5"}, {"over": 5}, b"x"]:
        assert (await ask(node, "POST", "/api/drain", body))[0] == 400, body
    assert node.condition == "up"


async def test_the_token_file(start_node: StartNode, unused_tcp_port: int) -> None:
    """A token is made at the start, readable by its user only, new each time, and gone after the stop."""
    tokens = set()
    for _ in range(2):
        node = await start_node(admin__port=unused_tcp_port)
        path = token_paths(node.admin.port)[0]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.read_text() == node.admin.token
        tokens.add(node.admin.token)
        await node.stop(drain_ms=0, deadline_ms=300)
        assert not path.exists()
    assert len(tokens) == 2


async def test_tokens_of_the_settings(start_node: StartNode, unused_tcp_port: int, tmp_path: Path) -> None:
    """A token or a file of the operator's is used as it is and no other is kept; an empty file stops the start."""
    node = await start_node(admin__port=unused_tcp_port, admin__token=Secret("from the settings"))
    assert (await ask(node, "GET", "/api/channels", token="from the settings"))[0] == 200
    assert not token_paths(unused_tcp_port)[0].exists()
    await node.stop(drain_ms=0, deadline_ms=300)
    file = tmp_path / "token"
    file.write_text("from a file of ours\n")
    node = await start_node(admin__port=unused_tcp_port, admin__token_file=file)
    assert (await ask(node, "GET", "/api/channels", token="from a file of ours"))[0] == 200
    await node.stop(drain_ms=0, deadline_ms=300)
    assert file.exists()
    for text in ("", "  \n", "too short", "\n".join(("the first of three", "the second of them", "the third of them"))):
        file.write_text(text)
        with pytest.raises(StartError, match=str(file)):
            await start_node(admin__port=unused_tcp_port, admin__token_file=file)


TOKENS = {scope: f"a token for {scope} alone" for scope in SCOPES}
SCOPED = tuple(ScopedToken(f"{scope}er", (scope,), token=Secret(TOKENS[scope])) for scope in SCOPES)


async def test_every_route_needs_its_scope(start_node: StartNode, unused_tcp_port: int) -> None:
    """Of the one table: a token of another scope gets 403, which names what is missing; the data port's is among it."""
    node = await start_node(
        admin__port=unused_tcp_port, admin__tokens=SCOPED, server__metrics_networks=("192.0.2.0/24",)
    )
    for route in NODE_ROUTES:
        for scope in SCOPES:
            if route.path == "/metrics":
                given = {"Authorization": f"Bearer {TOKENS[scope]}"}
                found = await http(node.port, "/metrics", headers=given)
                status, text = found.status, found.body.decode()
            else:
                path = route.path.format(id="x")
                status, answer = await ask(node, route.method, path, b"{", token=TOKENS[scope])
                text = str(answer)
            if scope == route.scope:
                assert status in (200, 400, 404), route
            else:
                assert (status, f"needs the scope {route.scope}" in text) == (403, True), route
    assert node.condition == "up"


async def test_new_tokens_in_the_place_of_the_old(start_node: StartNode, unused_tcp_port: int) -> None:
    """From the next request on, also of a kept connection; the one that was made here stays where it is needed."""
    node = await start_node(admin__port=unused_tcp_port, admin__tokens=SCOPED)
    made = node.admin.token
    node.admin.replace_tokens(read_tokens(AdminSettings(tokens=SCOPED[1:])))
    assert (await ask(node, "GET", "/api/channels", token=TOKENS["read"]))[0] == 401
    assert (await ask(node, "GET", "/api/channels", token=made))[0] == 200
    node.admin.replace_tokens(read_tokens(AdminSettings(token=Secret("the one of the settings"))))
    assert (await ask(node, "GET", "/api/channels", token=made))[0] == 401
    assert (await ask(node, "GET", "/api/channels", token="the one of the settings"))[0] == 200


async def test_who_ordered_what_is_in_the_log(start_node: StartNode, unused_tcp_port: int) -> None:
    """By name, without a token: what changed the node, publications at debug, and what a scope forbade; no reads."""
    node = await start_node(admin__port=unused_tcp_port, admin__tokens=SCOPED)
    with capture_logs() as lines:
        await ask(node, "GET", "/api/channels", token=TOKENS["read"])
        await ask(node, "POST", "/api/publish?x=1", {"channel": "public.a", "data": 1}, token=TOKENS["publish"])
        await ask(node, "POST", "/api/connections/x/disconnect", token=TOKENS["operate"])
        await ask(node, "DELETE", "/api/drain", token=TOKENS["read"])
        await ask(node, "DELETE", "/api/drain", token="wrong")
    found = [line for line in lines if line["event"] == "admin_order"]
    keys = ("log_level", "by", "scope", "method", "path", "address", "status")
    assert [tuple(line[key] for key in keys) for line in found] == [
        ("debug", "publisher", "publish", "POST", "/api/publish", "127.0.0.1", 200),
        ("info", "operateer", "operate", "POST", "/api/connections/x/disconnect", "127.0.0.1", 404),
        ("warning", "reader", "operate", "DELETE", "/api/drain", "127.0.0.1", 403),
    ]
    assert not any(token in str(lines) for token in TOKENS.values())


async def test_the_admin_token_opens_metrics(start_node: StartNode, unused_tcp_port: int) -> None:
    """/metrics answers from anywhere to who has the token."""
    node = await start_node(admin__port=unused_tcp_port, server__metrics_networks=("192.0.2.0/24",))
    assert (await http(node.port, "/metrics")).status == 403
    given = {"Authorization": f"Bearer {node.admin.token}", "X-Forwarded-For": "203.0.113.1"}
    assert (await http(node.port, "/metrics", headers=given)).status == 200
    off = await start_node(server__metrics_networks=("192.0.2.0/24",))
    assert (await http(off.port, "/metrics", headers={"Authorization": "Bearer "})).status == 403


async def test_a_taken_admin_port_stops_the_start(start_node: StartNode, unused_tcp_port: int) -> None:
    """The error names the port and the setting to change."""
    await start_node(admin__port=unused_tcp_port)
    with pytest.raises(StartError, match=str(unused_tcp_port)) as failed:
        await start_node(admin__port=unused_tcp_port)
    assert "admin.port" in str(failed.value)
    # The one above the data port, where that is the last.
    with pytest.raises(StartError, match="65536") as failed:
        await start_node(admin__port=65_536)
    assert "admin.port" in str(failed.value)


async def publish(*arguments: str) -> tuple[int, str, str]:
    """Run `trunkline publish`; returns exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "publish", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), patient(40))
    return process.returncode or 0, out.decode(), errors.decode()


async def test_the_publish_command(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """The command finds the node and its token by itself, prints the position, and fails with 2 and a clear line."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await open_peer(node)
    await peer.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    code, out, _ = await publish("public.a", '{"by": "command"}')
    assert code == 0
    got = await peer.expect("publication")
    assert got["data"] == {"by": "command"}
    assert (str(got["offset"]) in out, got["epoch"] in out) == (True, True)
    address = f"http://127.0.0.1:{unused_tcp_port}"
    results = await asyncio.gather(
        publish("public.a", "{", "--admin", address),
        publish("public.a", "1", "--admin", address, "--token", "wrong"),
        publish("a..b", "1", "--admin", address),
        publish("public.a", "1", "--admin", "http://127.0.0.1:9", "--token", "x"),
    )
    for (code, out, errors), named in zip(results, ["JSON", "token", "channel", "127.0.0.1:9"], strict=True):
        assert code == 2
        assert out == ""
        assert named in errors
        assert "Traceback" not in errors


async def test_move_and_keys(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """Clients are counted by what keeps them together, and asked to reconnect; what is no order is 400."""
    node = await start_node(admin__port=unused_tcp_port)
    peers = [await open_peer(node, f"/api/game?matchId={match}", greet=False) for match in "aab"]
    status, found = await ask(node, "GET", "/api/keys?by=query:matchId")
    assert (status, found) == (200, {"counts": {"a": 2, "b": 1}, "more": False})
    order = {"count": 0, "over_ms": 0, "affinity": "query:matchId", "values": ["a"]}
    assert await ask(node, "POST", "/api/move", order) == (200, {"moving": 2})
    assert [(await peer.closed())[0] for peer in peers[:2]] == [1012, 1012]
    assert await ask(node, "POST", "/api/move", {"count": 5, "over_ms": 0}) == (200, {"moving": 1})
    assert await peers[2].closed() == (1012, "rebalancing")
    for body in ({"count": -1}, {"count": 1, "affinity": "x"}, {"count": 1, "who": "all"}, b"{"):
        assert (await ask(node, "POST", "/api/move", body))[0] == 400
    for by in ("", "?by=", "?by=path:0"):
        status, found = await ask(node, "GET", f"/api/keys{by}")
        assert (status, found["error"]) == (400, "bad_request")


def order(node: Node, method: str, path: str, headers: str = "", token: str | None = None) -> bytes:
    """The head of a request with the admin token, or another one."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token or node.admin.token}\r\n{headers}\r\n"
    ).encode()


async def test_bodies_in_any_framing(start_node: StartNode, unused_tcp_port: int) -> None:
    """Content-Length, chunks in any pieces and `Expect: 100-continue`, one after the other on one connection."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await RawPeer.connect(unused_tcp_port)
    body = b'{"channel":"public.a","data":1}'
    sized = order(node, "POST", "/api/publish", f"Content-Length: {len(body)}\r\n") + body
    await peer.send(sized + sized)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Trailer: t\r\n\r\n"
    for piece in (order(node, "POST", "/api/publish", "Transfer-Encoding: chunked\r\n"), chunks[:50], chunks[50:]):
        await peer.send(piece)
        await asyncio.sleep(0.01)
    assert [(await peer.answer()).json()["offset"] for _ in range(3)] == [1, 2, 3]
    await peer.send(order(node, "POST", "/api/publish", f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n"))
    assert (await peer.answer()).status == 100
    await peer.send(body)
    assert (await peer.answer()).json()["offset"] == 4
    await peer.send(order(node, "HEAD", "/api/channels", "Connection: close\r\n"))
    assert (await peer.answer(head=True)).status == 200
    assert await peer.ended() == b""


async def test_sizes_are_bounded(start_node: StartNode, unused_tcp_port: int) -> None:
    """A body above 2 MiB is 413 whether its length was announced or not, a long head 431; each answer arrives whole."""
    node = await start_node(admin__port=unused_tcp_port)
    big = 3 << 20
    chunks = (b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n") * 3
    for head, rest, status in [
        (order(node, "POST", "/api/publish", f"Content-Length: {big}\r\n"), b"x" * big, 413),
        (order(node, "POST", "/api/publish", "Transfer-Encoding: chunked\r\n"), chunks, 413),
        (order(node, "GET", "/api/channels", "X: " + "x" * 20_000 + "\r\n"), b"", 431),
        (order(node, "POST", "/api/publish", "Content-Length: 1\r\nContent-Length: 1\r\n"), b"x", 400),
    ]:  # fmt: skip
        peer = await RawPeer.connect(unused_tcp_port)
        with contextlib.suppress(ConnectionError):
            await peer.send(head + rest)
        assert (await peer.answer()).status == status
        peer.close()


async def test_a_body_without_the_token_is_thrown_away(start_node: StartNode, unused_tcp_port: int) -> None:
    """A megabyte behind a wrong token is read and not kept; the answer is 401, and the connection goes on."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await RawPeer.connect(unused_tcp_port)
    await peer.send(order(node, "POST", "/api/publish", "Content-Length: 1000000\r\n", token="wrong"))
    await peer.send(b"x" * 1_000_000)
    assert (await peer.answer()).status == 401
    await peer.send(order(node, "GET", "/api/channels"))
    assert (await peer.answer()).status == 200
    peer.close()


async def test_slow_clients_of_the_admin_port(
    start_node: StartNode, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is not complete in time is 408, and an idle connection is closed."""
    monkeypatch.setattr(admin, "TIMEOUT_S", 0.3)
    node = await start_node(admin__port=unused_tcp_port)
    slow, idle = await RawPeer.connect(unused_tcp_port), await RawPeer.connect(unused_tcp_port)
    await slow.send(order(node, "POST", "/api/publish", "Content-Length: 10\r\n") + b"{")
    assert (await slow.answer()).status == 408
    assert await slow.ended() == b""
    assert await idle.ended() == b""


async def test_what_is_not_served(start_node: StartNode, unused_tcp_port: int) -> None:
    """With the token: 404 for other paths, 405 with Allow for other methods, 400 for what is no HTTP."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await RawPeer.connect(unused_tcp_port)
    for path in ("/nothing", "/api/connections/x", "/api/connections//disconnect", "/api/connections/a/b/disconnect"):
        await peer.send(order(node, "GET", path))
        assert (await peer.answer()).status == 404, path
    await peer.send(order(node, "GET", "/api/publish"))
    answer = await peer.answer()
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    await peer.send(b"nonsense\r\n\r\n")
    assert (await peer.answer()).status == 400
    assert await peer.ended() == b""


async def test_a_token_of_any_letters(start_node: StartNode, unused_tcp_port: int) -> None:
    """Tokens are UTF-8, here and at `/metrics`; bytes that are not are a wrong token."""
    token = "schlüssel-schlüssel"
    node = await start_node(
        admin__port=unused_tcp_port, admin__token=Secret(token), server__metrics_networks=("192.0.2.0/24",)
    )
    for port, path, refusal in ((unused_tcp_port, "/api/channels", 401), (node.port, "/metrics", 403)):
        peer = await RawPeer.connect(port)
        for given, status in ((token.encode(), 200), (token.encode("latin-1"), refusal), (b"\xff", refusal)):
            await peer.send(
                b"GET %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n" % (path.encode(), given)
            )
            assert (await peer.answer()).status == status, (path, given)
        peer.close()


async def test_an_expected_continue_behind_another_order(start_node: StartNode, unused_tcp_port: int) -> None:
    """A head with `Expect` that comes in one read with an order is continued once that order is answered."""
    node = await start_node(admin__port=unused_tcp_port)
    peer = await RawPeer.connect(unused_tcp_port)
    body = b'{"channel":"public.a","data":1}'
    head = order(node, "POST", "/api/publish", f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n")
    await peer.send(order(node, "GET", "/api/channels") + head)
    assert [(await peer.answer()).status for _ in range(2)] == [200, 100]
    await peer.send(body)
    assert (await peer.answer()).status == 200
    peer.close()


async def test_no_answer_is_kept_or_guessed_at(start_node: StartNode, unused_tcp_port: int) -> None:
    """Every answer says so, refusals and errors too."""
    node = await start_node(admin__port=unused_tcp_port)
    token = {"Authorization": f"Bearer {node.admin.token}"}
    for method, path, headers, status in [
        ("GET", "/api/channels", token, 200),
        ("GET", "/api/channels", {}, 401),
        ("GET", "/nothing", token, 404),
        ("DELETE", "/api/channels", token, 405),
        ("POST", "/api/publish", token, 400),
    ]:
        answer = await http(unused_tcp_port, path, method=method, headers=headers)
        assert answer.status == status
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


class Held:
    """Holds a node's publications, so that an order is under way for as long as a test needs."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self.finished = self.cancelled = False
        monkeypatch.setattr(node.hub, "publish", self._publish)

    async def _publish(self, channel: str, data: bytes) -> None:
        self.begun.set()
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.finished = True


@pytest.mark.parametrize(
    "headers", ["", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"], ids=["plain", "h2c"]
)
async def test_an_order_outlives_its_client(
    start_node: StartNode, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    """A client that leaves ends no order, whatever protocol it also offered to speak."""
    node = await start_node(admin__port=unused_tcp_port)
    held = Held(node, monkeypatch)

    async def slow(request: Request) -> Response:
        await node.hub.publish("public.a", b"1")
        return Response(200)

    keys = node.admin._orders["/api/keys"]
    keys["GET"] = keys["GET"]._replace(handler=slow)
    peer = await RawPeer.connect(unused_tcp_port)
    await peer.send(order(node, "GET", "/api/channels", headers))
    assert (await peer.answer()).headers["connection"] == "keep-alive"
    await peer.send(order(node, "GET", "/api/keys", headers))
    await asyncio.wait_for(held.begun.wait(), patient(5))
    peer.close()
    await asyncio.sleep(0.05)
    held.done.set()
    await asyncio.sleep(0.05)
    assert (held.finished, held.cancelled) == (True, False)


async def test_a_stop_ends_what_waits_for_the_bus(
    start_node: StartNode, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders under way get a moment; none is left running, and idle clients do not hold the stop up."""
    monkeypatch.setattr(admin, "STOP_S", 0.2)
    node = await start_node(admin__port=unused_tcp_port)
    held = Held(node, monkeypatch)
    idle, peer = await RawPeer.connect(unused_tcp_port), await RawPeer.connect(unused_tcp_port)
    body = b'{"channel":"public.a","data":1}'
    await peer.send(order(node, "POST", "/api/publish", f"Content-Length: {len(body)}\r\n") + body)
    await asyncio.wait_for(held.begun.wait(), patient(5))
    await asyncio.wait_for(node.stop(drain_ms=0, deadline_ms=300), patient(5))
    assert (held.finished, held.cancelled) == (False, True)
    assert await idle.ended() == b""


async def test_orders_cannot_end_a_stop(start_node: StartNode, open_peer: OpenPeer, unused_tcp_port: int) -> None:
    """While a node stops, another drain and the end of a drain change nothing: clients are asked in their slots."""
    node = await start_node(admin__port=unused_tcp_port)
    peers = [await open_peer(node) for _ in range(2)]
    stopping = asyncio.create_task(node.stop(drain_ms=600, deadline_ms=60_000))
    await asyncio.sleep(0)
    assert await ask(node, "DELETE", "/api/drain") == (
        200,
        {"node": node.name, "state": "draining", "connections": 2, "over_ms": None},
    )
    status, answer = await ask(node, "POST", "/api/drain", {"over_ms": 36_000_000})
    assert (status, answer["state"]) == (200, "draining")
    assert (await http(node.port, "/ready")).status == 503
    assert {await peer.closed() for peer in peers} == {(1001, "node shutting down")}
    await asyncio.wait_for(stopping, patient(5))


async def test_nothing_is_served_behind_a_408(start_node: StartNode, unused_tcp_port: int) -> None:
    """A client that took no answer in time, and then takes them, gets nothing behind the 408, and no order is done."""
    node = await start_node(admin__port=unused_tcp_port)
    transport = mock.Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = ("127.0.0.1", 1)
    connection = HttpConnection(node.admin)
    connection.connection_made(transport)
    connection.pause_writing()
    connection.data_received(order(node, "DELETE", "/api/drain") + order(node, "POST", "/api/drain")[:-2])
    connection.on_time_out()
    connection.resume_writing()
    (written,) = transport.write.call_args_list
    assert written.args[0].startswith(b"HTTP/1.1 408 ")
    assert not node.admin._tasks
    connection.connection_lost(None)
