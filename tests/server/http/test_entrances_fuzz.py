"""Whatever a client that nobody trusts puts into a request, a token or a message, it gets an answer or a close.

Never a 500, a close with 1011, or a traceback in the log.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

import jwt
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import fuzz
from tests.support.free_ports import free_port
from tests.support.fuzz import Stage, ask, head, header_lists, odd, queries, status_of
from tests.support.server.live_node import settings_with
from tests.support.server.raw_peer import frame
from trunkline.errors import Refused
from trunkline.server.app import stock
from trunkline.server.http.tokens import Verifier
from trunkline.server.node.node import Node
from trunkline.settings.channels import ChannelRule
from trunkline.settings.secret import Secret
from trunkline.settings.sections import AuthSettings

KEY: Final = "0123456789abcdef0123456789abcdef"
ADMIN: Final = "an-admin-token-of-a-test"
PATHS: Final = (
    b"/", b"/ws", b"/ws/echo", b"/ws/chat/me", b"/ws/chat/", b"/api/game", b"/health", b"/metrics", b"/metric",
    b"/ready",
    b"/api/stats", b"/api/instance", b"/trunkline.js", b"*", b"http://127.0.0.1/ws", b"//", b"/..",
)  # fmt: skip
RULES: Final = (
    ChannelRule("user.{sub}.*", subscribe="role=a", publish="scope=b"),
    ChannelRule("deep.*", subscribe="realm_access.roles=x"),
)


class Entrance:
    """A node, and what went wrong on it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        settings = settings_with(
            auth__algorithms=("HS256",),
            auth__secret=Secret(KEY),
            server__origins=("https://app.example.org", "https://*.example.net"),
            server__trusted_proxies=("127.0.0.0/8",),
            admin__port=free_port(),
            admin__token=Secret(ADMIN),
            channels__rules=RULES,
            log__access=True,
        )
        self.node = Node(settings, stock.create())

    @property
    def port(self) -> int:
        return self.node.port

    @property
    def admin(self) -> int:
        return self.node.admin.port


@pytest.fixture(scope="module")
def entrance() -> Iterator[Entrance]:
    """A node in a loop of its own."""
    with fuzz.stage() as stage:
        made = Entrance(stage)
        stage.run(made.node.start())
        yield made
        stage.run(made.node.stop(drain_ms=0, deadline_ms=500))
        stage.check()


targets = st.builds(
    lambda path, odd, query: (path + odd.translate(None, b" \t\r\n\0") or b"/") + (b"?" + query if query else b""),
    st.sampled_from(PATHS),
    st.one_of(st.just(b""), odd),
    queries.map(lambda query: query.translate(None, b" \t\r\n\0")),
)


@given(targets, header_lists, st.booleans())
@example(b"/ws", [(b"Authorization", b"Bearer \xff\xfe")], True)
@example(b"/metrics", [(b"Authorization", b"Bearer \xff\xfe"), (b"X-Forwarded-For", b"fe80::1%\xe9")], False)
def test_requests(entrance: Entrance, target: bytes, headers: list[tuple[bytes, bytes]], upgrade: bool) -> None:
    """Any target and any headers, with and without an upgrade."""
    status = status_of(ask(entrance.port, head(target, headers, upgrade=upgrade)))
    assert status in (101, 200, 304, *range(400, 500), 503, 505), status
    entrance.stage.check()


@given(st.lists(st.one_of(odd, st.sampled_from((b"GET /ws HTTP/1.1\r\n", b"\r\n", b"\0", b"Host: a\r\n"))), max_size=8))
def test_bytes(entrance: Entrance, pieces: list[bytes]) -> None:
    """What is no HTTP at all."""
    for port in (entrance.port, entrance.admin):
        assert status_of(ask(port, b"".join(pieces), whole=False)) in (0, *range(400, 500), 505)
    entrance.stage.check()


# --- tokens -----------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\ud800", "\udc80a", "\0", "9" * 300, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
CLAIMS: Final = ("sub", "iss", "aud", "exp", "nbf", "iat", "jti", "role", "scope", "realm_access")
claims = st.dictionaries(st.sampled_from(CLAIMS) | st.text(max_size=4), json_values, max_size=5)
headers_of_tokens = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c", "zip", "enc"]), json_values, max_size=4
)


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed(header: Any, payload: Any) -> str:
    """A token with any header and claims, and with the signature of the key that the node has."""
    body = f"{encoded(header)}.{encoded(payload)}"
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(body.encode(), KEY.encode())
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


tokens = st.one_of(
    st.builds(signed, st.just({"alg": "HS256"}), claims),
    st.builds(signed, headers_of_tokens.map(lambda header: {"alg": "HS256", **header}), claims),
    st.builds(signed, json_values, json_values),
    st.builds(lambda a, b, c: f"{a}.{b}.{c}", *[st.text(max_size=12)] * 3),
    st.text(st.characters(exclude_categories=()), max_size=40),
    st.just(signed({"alg": "HS256", "a": 0}, {"sub": "x"}).replace("0", "[" * 5000)),
)
DEEP: Final = base64.urlsafe_b64encode(b'{"alg":"HS256","a":' + b"[" * 2500 + b"]" * 2500 + b"}").rstrip(b"=").decode()


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    """The settings of a node with everything on."""
    return Verifier(AuthSettings(("HS256",), secret=Secret(KEY), issuer="i", audience="a", require_exp=True))


@given(tokens)
@example(signed({"alg": ["HS256"]}, {}))
@example(signed({"alg": {}}, {}))
@example(f"{DEEP}.e30.e30")
@example(signed({"alg": "HS256"}, {"sub": "\ud800", "iss": "i", "aud": "a", "exp": time.time() + 60}))
@example("\ud800.\udfff.\ud800")
def test_the_verifier_accepts_or_refuses(verifier: Verifier, token: str) -> None:
    """Nothing else comes out of it, and what it accepts can be encoded again."""
    loose = Verifier(AuthSettings(("HS256",), secret=Secret(KEY)))
    for each in (verifier, loose):
        with contextlib.suppress(Refused):
            identity = each.verify_now(token)
            assert identity is not None
            msgspec.json.encode(identity)


@given(tokens.filter(lambda token: token.isascii() and token.isprintable() and " " not in token), st.integers(0, 3))
@example(signed({"alg": "HS256"}, {"sub": "\ud800"}), 0)
@example(signed({"alg": ["HS256"]}, {"sub": "a"}), 1)
@example(signed({"alg": "HS256"}, {"sub": "\x1b[31m\0\u2028", "role": {"a": []}, "realm_access": [1]}), 2)
def test_tokens(entrance: Entrance, token: str, place: int) -> None:
    """In each place; one that is accepted goes through rules, the list of connections and the access log."""
    given = token.encode()
    path, headers = b"/ws", []
    if place == 0:
        headers = [(b"Authorization", b"Bearer " + given)]
    elif place == 1:
        path = b"/ws?token=" + given.replace(b"%", b"%25").replace(b"#", b"%23")
    else:
        headers = [(b"Sec-WebSocket-Protocol", b"bearer.%b%b" % (given, b", trunkline" if place == 2 else b""))]
    request = head(path, headers, upgrade=True)
    talk = b"".join(
        frame(1, text)
        for text in (
            b'{"type":"subscribe","channels":["user.a.b"]}',
            b'{"type":"subscribe","channels":["deep.a"]}',
            b'{"type":"publish","channel":"user.a.b","data":1}',
        )
    )
    with socket.create_connection(("127.0.0.1", entrance.port), fuzz.WAIT_S) as sock:
        sock.sendall(request + talk)
        answer = sock.recv(65_536)
        assert status_of(answer) in (101, 400, 401, 431)
        listed = ask(
            entrance.admin, head(b"/api/connections", [(b"Authorization", b"Bearer " + ADMIN.encode())], upgrade=False)
        )
        assert status_of(listed) == 200
        if status_of(answer) == 101:
            sock.sendall(frame(8, b"\x03\xe8bye"))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
    entrance.stage.check()


# --- messages and close frames ----------------------------------------------------------------------------------------

FIELDS: Final = (
    "type",
    "id",
    "channel",
    "channels",
    "recover",
    "data",
    "from",
    "to",
    "since",
    "epoch",
    "token",
    "text",
    "player",
)
TYPES: Final = ("subscribe", "unsubscribe", "publish", "replay", "heartbeat", "refresh", "message", "x", "")
messages = st.builds(
    lambda kind, fields: {"type": kind, **fields} if kind is not None else fields,
    st.none() | st.sampled_from(TYPES),
    st.dictionaries(
        st.sampled_from(FIELDS), json_values | st.sampled_from(["public.a", "match.m", "user..a", ["public.a"],
        {"public.a": {}}]),
        max_size=4,
    ),
)  # fmt: skip
payloads = st.one_of(
    messages.map(json.dumps).map(str.encode), json_values.map(json.dumps).map(str.encode), odd, st.binary()
)
closes = st.one_of(
    st.binary(max_size=125),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason, st.integers(0, 65_535), odd.map(lambda text: text[:120])
    ),
)
frames = st.one_of(
    st.tuples(st.just(1), payloads), st.tuples(st.just(1), payloads), st.tuples(st.sampled_from([0, 2, 3, 9, 10,
    11]), odd),
    st.tuples(st.just(8), closes),
)  # fmt: skip


@given(
    st.sampled_from([b"/ws", b"/ws/chat/a?room=b", b"/api/game?matchId=m&player=p", b"/ws/echo"]),
    st.lists(frames, min_size=1, max_size=5),
    closes,
)
def test_messages(entrance: Entrance, path: bytes, sent: list[tuple[int, bytes]], last: bytes) -> None:
    """Any frames, and any close frame behind them: an answer or a close, but never "server fault"."""
    sub = signed({"alg": "HS256"}, {"sub": "a", "role": "a", "scope": "b", "exp": time.time() + 60}).encode()
    request = head(path, [(b"Authorization", b"Bearer " + sub)], upgrade=True)
    data = b"".join(frame(kind, payload[:125] if kind > 7 else payload) for kind, payload in sent)
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", entrance.port), fuzz.WAIT_S) as sock,
        contextlib.suppress(ConnectionError),
    ):
        sock.sendall(request + data + frame(8, last))
        sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65_536):
            answer += piece
    assert status_of(answer) == 101
    assert b"\x88\x02\x03\xf3" not in answer
    assert b'"code":"INTERNAL"' not in answer
    entrance.stage.check()


# --- the admin port ---------------------------------------------------------------------------------------------------

ORDERS: Final = (
    b"/api/publish", b"/api/channels", b"/api/connections", b"/api/connections/x/disconnect", b"/api/drain",
    b"/api/move", b"/api/keys",
    b"/api/connections/%ff/disconnect", b"/",
)  # fmt: skip
bodies = st.one_of(
    odd,
    json_values.map(json.dumps).map(str.encode),
    st.dictionaries(st.sampled_from(["channel", "data", "over_ms", "count", "affinity", "values"]), json_values,
    max_size=4)
    .map(json.dumps).map(str.encode),
)  # fmt: skip


@given(
    st.sampled_from(ORDERS),
    queries,
    header_lists,
    bodies,
    st.sampled_from([b"GET", b"POST", b"DELETE", b"PUT", b"x"]),
    st.booleans(),
)
@example(b"/api/channels", b"", [(b"Authorization", b"Bearer \xff\xfe")], b"", b"GET", False)
@example(b"/api/channels", b"", [(b"Authorization", b"Bearer \xed\xa0\x80")], b"", b"GET", False)
def test_admin(
    entrance: Entrance,
    path: bytes,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    method: bytes,
    known: bool,
) -> None:
    """With and without the token; an order that is carried out is not of this test, but none is a fault."""
    query = query.translate(None, b" \t\r\n\0")
    if path == b"/api/drain" and known:
        body = b"x"
    if known:
        headers = [(name, value) for name, value in headers if name != b"Authorization"]
        headers = [*headers, (b"Authorization", b"Bearer " + ADMIN.encode())]
    headers = [*headers, (b"Content-Length", str(len(body)).encode())]
    request = head(path + (b"?" + query if query else b""), headers, upgrade=False, method=method)
    status = status_of(ask(entrance.admin, request + body))
    assert status in (200, *range(400, 500), 505), status
    entrance.stage.check()
