"""Whatever Traefik hands on of a client for a pick: an answer that costs no connection, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import fuzz
from tests.support.free_ports import free_port
from tests.support.fuzz import ask, head, odd_lines, status_of, values
from trunkline.settings.balancer import BackendEntry, RouteEntry
from trunkline.settings.sections import Settings
from trunkline.traefik.steer.service import SteeringService

A, B = "http://127.0.0.1:9", "http://127.0.0.1:10"


class Entrance:
    """A steering balancer over backends that do not answer; keys of affinity come from everywhere."""

    def __init__(self, stage: fuzz.Stage) -> None:
        self.stage = stage
        settings = Settings()
        routes = (
            RouteEntry(path="/h", affinity="header:User-Agent", policy="affinity"),
            RouteEntry(path="/p", affinity="path:2", policy="affinity"),
            RouteEntry(path="/c", affinity="cookie:who", policy="affinity"),
            RouteEntry(path="/q", affinity="query:matchId", policy="affinity"),
        )
        balancer = msgspec.structs.replace(
            settings.balancer, host="127.0.0.1", port=free_port(), admin_port=0, backends=(BackendEntry(A),
            BackendEntry(B)), health="off", routes=routes,
            sticky_cookie="trunkline",
        )  # fmt: skip
        traefik = msgspec.structs.replace(settings.traefik, trusted_proxies=("0.0.0.0/0", "::/0"))
        self.service = SteeringService(msgspec.structs.replace(settings, balancer=balancer, traefik=traefik))
        stage.run(self.service.start())

    def close(self) -> None:
        self.stage.run(self.service.stop())
        self.stage.check()


@pytest.fixture(scope="module")
def entrance() -> Iterator[Entrance]:
    """A steering balancer and its loop."""
    with fuzz.stage() as stage:
        made = Entrance(stage)
        yield made
        made.close()


uris = st.builds(
    lambda path, rest: path + rest,
    st.sampled_from((b"/h", b"/p/", b"/c", b"/q?matchId=", b"/", b"", b"//", b"x")),
    odd_lines,
)
names = st.sampled_from(
    (
        b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Forwarded-Method", b"X-Real-IP",
        b"Cookie", b"User-Agent",
        b"Origin", b"Sec-WebSocket-Key", b"Authorization", b"Connection", b"Upgrade",
    )
)  # fmt: skip


@given(
    uris, st.lists(st.tuples(names, values), max_size=5), st.sampled_from((b"/place", b"/traefik/dynamic", b"/metrics"))
)
@example(b"/h", [(b"User-Agent", b"\xff"), (b"X-Forwarded-For", b"fe80::1%\xff")], b"/place")
@example(b"/c\xff", [(b"Cookie", b"who=\xed\xa0\x80; trunkline=\xff")], b"/place")
@example(b"/p/\xff", [(b"Sec-WebSocket-Key", b"\xff" * 24)], b"/place")
def test_questions(entrance: Entrance, uri: bytes, headers: list[tuple[bytes, bytes]], path: bytes) -> None:
    """A pick or none, or 400 for what is no HTTP; the lines of the log are written."""
    key = [] if any(name == b"Sec-WebSocket-Key" for name, _ in headers) else [(b"Sec-WebSocket-Key", b"a" * 24)]
    status = status_of(
        ask(entrance.service.port, head(path, [(b"X-Forwarded-Uri", uri), *key, *headers], upgrade=False))
    )
    assert status in (200, 400, 403, 405, 417, 503), status
    if entrance.service._events is not None:
        entrance.service._events.flush()
    entrance.stage.check()
