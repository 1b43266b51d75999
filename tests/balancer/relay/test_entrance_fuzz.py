"""Whatever a client puts into a request to the relay, or to the balancer's admin port: an answer, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import fuzz
from tests.support.free_ports import free_port
from tests.support.fuzz import ask, head, header_lists, odd, queries, status_of
from tests.support.server.live_node import settings_with
from trunkline.balancer.service import RelayService
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.balancer import BackendEntry, RouteEntry
from trunkline.settings.sections import Settings

METRICS = "/balancer-metrics"


class Entrance:
    """A relay before a node; keys of affinity come from a header, a cookie, the query and the path."""

    def __init__(self, stage: fuzz.Stage) -> None:
        self.stage = stage
        self.node = Node(settings_with(server__trusted_proxies=("127.0.0.0/8",)), stock.create())
        stage.run(self.node.start())
        settings = Settings()
        routes = (
            RouteEntry(path="/ws/echo", affinity="header:X-Real-IP", policy="affinity"),
            RouteEntry(path="/ws/chat", affinity="path:3", policy="affinity"),
            RouteEntry(path="/ws", affinity="cookie:trunkline", policy="affinity"),
            RouteEntry(path="/api", affinity="query:matchId", policy="affinity"),
        )
        balancer = msgspec.structs.replace(
            settings.balancer, host="127.0.0.1", port=0, admin_port=free_port(),
            backends=(BackendEntry(f"http://127.0.0.1:{self.node.port}"),),
            routes=routes, sticky_cookie="trunkline", trusted_proxies=("127.0.0.0/8",), drain_ms=0,
        )  # fmt: skip
        self.service = RelayService(msgspec.structs.replace(settings, balancer=balancer))
        stage.run(self.service.start())

    def close(self) -> None:
        self.stage.run(self.service.stop())
        self.stage.run(self.node.stop(drain_ms=0, deadline_ms=500))
        self.stage.check()


@pytest.fixture(scope="module")
def entrance() -> Iterator[Entrance]:
    """A relay, its node and their loop."""
    with fuzz.stage("console") as stage:
        made = Entrance(stage)
        yield made
        made.close()


paths = st.sampled_from(
    (b"/", b"/ws", b"/ws/echo", b"/ws/chat/", b"/api/game", METRICS.encode(), b"/nowhere", b"//", b"*")
)
targets = st.builds(
    lambda path, odd, query: (path + odd + (b"?" + query if query else b"")).translate(None, b" \t\r\n\0"),
    paths,
    st.one_of(st.just(b""), odd),
    queries,
)


@given(targets, header_lists, st.booleans())
@example(b"/ws", [(b"Authorization", b"Bearer \xff\xfe"), (b"Cookie", b"trunkline=\xff")], True)
@example(b"/ws/echo", [(b"X-Real-IP", b"\xed\xa0\x80"), (b"X-Forwarded-For", b"::1%\xff")], True)
def test_requests(entrance: Entrance, target: bytes, headers: list[tuple[bytes, bytes]], upgrade: bool) -> None:
    """With and without an upgrade; the node behind is asked, and answers."""
    status = status_of(ask(entrance.service.port, head(target, headers, upgrade=upgrade)))
    assert status in (101, 200, 304, *range(400, 500), 503, 505), status
    entrance.stage.check()


@given(st.lists(st.one_of(odd, st.sampled_from((b"GET /ws HTTP/1.1\r\n", b"\r\n", b"\0", b"Host: a\r\n"))), max_size=8))
def test_bytes(entrance: Entrance, pieces: list[bytes]) -> None:
    """What is no HTTP at all."""
    for port in (entrance.service.port, entrance.service.admin.port):
        assert status_of(ask(port, b"".join(pieces), whole=False)) in (0, *range(400, 500), 505)
    entrance.stage.check()


@given(
    st.sampled_from((b"/healthz", b"/ready", b"/metrics", METRICS.encode(), b"/nowhere", b"/%ff")), queries,
    header_lists,
    st.sampled_from((b"GET", b"HEAD", b"POST")),
)  # fmt: skip
@example(b"/metrics", b"", [(b"Authorization", b"Bearer \xff\xfe"), (b"X-Forwarded-For", b"1.2.3.4")], b"GET")
@example(b"/metrics", b"", [(b"Authorization", b"Bearer \xed\xa0\x80"), (b"Forwarded", b"x")], b"GET")
def test_admin(
    entrance: Entrance, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], method: bytes
) -> None:
    """Its pages, for those who have the token and those who have not."""
    query = query.translate(None, b" \t\r\n\0")
    request = head(path + (b"?" + query if query else b""), headers, upgrade=False, method=method)
    status = status_of(ask(entrance.service.admin.port, request))
    assert status in (200, *range(400, 500), 503, 505), status
    entrance.stage.check()
