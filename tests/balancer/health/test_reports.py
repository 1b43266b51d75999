"""Load reports from real servers: a node of ours, foreign ones, and those that lie, hang or die."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.support.balancer.backend_server import RawBackend, WebBackend, hang, text
from tests.support.patience import patient, patient_ms
from trunkline.balancer.health.reports import LONGEST_REPORT_WITH_KEYS, ReportPoller, read_report
from trunkline.placement.backend import BackendSpec
from trunkline.protocol.control import LoadReport
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import Settings

pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

WAIT_S = patient(10.0)


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    """A session or a connection that nobody closed fails the test, by the marks above."""
    yield
    gc.collect()


class Desk:
    """A poller of the given backends, and what it tells."""

    def __init__(self, *urls: str, known: dict[str, tuple[str, int]] | None = None, **changes: Any) -> None:
        given: dict[str, Any] = {"cache_ttl_ms": 600_000, "report_timeout_ms": patient_ms(400), **changes}
        self.told: asyncio.Queue[tuple[str, LoadReport | str]] = asyncio.Queue()
        self.asked_at: list[float] = []
        known = known or {}
        self.poller = ReportPoller(
            msgspec.structs.replace(BalancerSettings(), **given), self._report, self._failure, known.get
        )
        self.set(*urls)

    def set(self, *urls: str) -> None:
        self.poller.set_backends([BackendSpec(url) for url in urls])

    def _report(self, url: str, report: LoadReport, asked_at: float) -> None:
        self.asked_at.append(asked_at)
        self.told.put_nowait((url, report))

    def _failure(self, url: str, why: str) -> None:
        self.told.put_nowait((url, why))

    async def __aenter__(self) -> Desk:
        await self.poller.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.poller.close()

    async def next(self) -> tuple[str, LoadReport | str]:
        return await asyncio.wait_for(self.told.get(), WAIT_S)

    async def report(self) -> LoadReport:
        """The next report; a failure is passed over."""
        while not isinstance(told := (await self.next())[1], LoadReport):
            pass
        return told

    async def failure(self) -> str:
        """Why the next failure; a report is passed over."""
        while isinstance(told := (await self.next())[1], LoadReport):
            pass
        return told

    def drain(self) -> list[tuple[str, LoadReport | str]]:
        """What was told and not taken."""
        return [self.told.get_nowait() for _ in range(self.told.qsize())]


def counting(start: int = 0) -> Any:
    """An answer that counts the questions."""
    count = start

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        return web.json_response({"agentsConnections": count})

    return answer


# --- what is asked and believed ---------------------------------------------------------------------------------------


async def test_a_node_of_ours_reports() -> None:
    """A real node is asked at once and its report understood."""
    settings = Settings()
    settings = msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, host="127.0.0.1", port=0, drain_ms=0, max_connections=77),
        admin=msgspec.structs.replace(settings.admin, port=0),
        limits=msgspec.structs.replace(settings.limits, loop_lag_shed_ms=60_000),
    )
    node = Node(settings, stock.create())
    await node.start()
    try:
        before = time.monotonic()
        async with Desk(f"http://127.0.0.1:{node.port}") as desk:
            report = await desk.report()
        assert (report.agentsConnections, report.capacity, report.state) == (0, 77, "up")
        assert before <= desk.asked_at[0] <= time.monotonic()
    finally:
        await node.stop(drain_ms=0, deadline_ms=300)


async def test_a_foreign_backend_needs_the_count_alone() -> None:
    """One field is enough, unknown ones are passed over, and ours may mean something else there."""
    strange = {"agentsConnections": 5, "state": "running", "capacity": "plenty", "extra": [1]}
    async with WebBackend(text('{"agentsConnections": 7}')) as plain, WebBackend(text(json.dumps(strange))) as other:
        async with Desk(plain.url) as desk:
            assert await desk.report() == LoadReport(7)
        async with Desk(other.url) as desk:
            assert await desk.report() == LoadReport(5)


async def test_keys_are_asked_for_when_the_run_is_known() -> None:
    """The question names the run and the count that are known, or nothing; the path is the setting's."""
    async with WebBackend(text('{"agentsConnections": 1}')) as ours, WebBackend(counting()) as foreign:
        async with Desk(ours.url, foreign.url, known={ours.url: ("run&1", 41)}, metric_path="/load") as desk:
            await desk.report()
            await desk.report()
        assert (ours.requests[0].path, dict(ours.requests[0].query)) == ("/load", {"after": "41", "run": "run&1"})
        assert dict(foreign.requests[0].query) == {}


async def test_only_answers_with_keys_may_be_long() -> None:
    """64 KiB is the limit, a MiB where keys were asked for."""
    keys = json.dumps({"agentsConnections": 4000, "run": "r", "opened": 4000, "keys": ["k" * 24] * 4000})
    async with WebBackend(text(keys)) as backend:
        async with Desk(backend.url) as desk:
            assert await desk.failure() == "longer than 65536 bytes"
        async with Desk(backend.url, known={backend.url: ("r", 0)}) as desk:
            assert len((await desk.report()).keys) == 4000
        backend.answer = text(keys + " " * LONGEST_REPORT_WITH_KEYS)
        async with Desk(backend.url, known={backend.url: ("r", 0)}) as desk:
            assert await desk.failure() == "longer than 1048576 bytes"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"agentsConnections": -1}', "no load report: Expected `int` >= 0"),
        ('{"agentsConnections": 10000001}', "no load report: agentsConnections above 10000000"),
        ('{"agentsConnections": 1e400}', "no load report"),
        ('{"agentsConnections": 99999999999999999999999999}', "no load report"),
        ('{"agentsConnections": "many"}', "no load report: Expected `int`, got `str`"),
        ('{"agentsConnections": null}', "no load report: Expected `int`, got `null`"),
        ('{"agentsConnections": 1.5}', "no load report: Expected `int`, got `float`"),
        ("{}", "no load report: Object missing required field `agentsConnections`"),
        ("[1]", "no load report: Expected `object`, got `array`"),
        ("many", "no load report: not JSON"),
        ("", "no load report: not JSON"),
        ("<!doctype html><title>5</title>", "no load report: not JSON"),
        ("[" * 60_000, "no load report"),
    ],
)
async def test_lies_are_failures(body: str, why: str) -> None:
    """Negative, huge, text, HTML and everything else that is no report fails with a reason, and ends nothing."""
    async with WebBackend(text(body)) as backend, Desk(backend.url) as desk:
        told = await desk.next()
        assert told[0] == backend.url
        assert isinstance(told[1], str)
        assert told[1].startswith(why)
        backend.answer = text('{"agentsConnections": 3}')
        await desk.poller.refresh([backend.url])
        assert await desk.report() == LoadReport(3)


@pytest.mark.parametrize(("number", "count"), [("5", 5), ("5.0", 5), ("1e3", 1000), ("1.5e1", 15), ("0.0", 0)])
def test_whole_numbers_of_any_form(number: str, count: int) -> None:
    """JSON has one kind of number: a whole one counts however it is written, beside names of others as well."""
    assert read_report(b'{"agentsConnections": %b, "capacity": 2e2}' % number.encode()) == LoadReport(
        count, capacity=200
    )
    assert read_report(b'{"agentsConnections": %b, "state": "running"}' % number.encode()) == LoadReport(count)


@given(
    st.binary(max_size=200) | st.text(max_size=50).map(lambda value: json.dumps({"agentsConnections": value}).encode())
)
def test_no_body_breaks_the_reader(body: bytes) -> None:
    """Whatever comes is a report within the limits or a short reason."""
    found = read_report(body)
    if isinstance(found, str):
        assert 0 < len(found) < 200
    else:
        assert 0 <= found.agentsConnections <= 10_000_000


@pytest.mark.parametrize("status", [204, 301, 404, 429, 500])
async def test_other_statuses_are_failures(status: int) -> None:
    """Only 200 is an answer; a redirect is not followed."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/else":
            return web.json_response({"agentsConnections": 1})
        return web.Response(status=status, headers={"Location": "/else"})

    async with WebBackend(answer) as backend, Desk(backend.url) as desk:
        assert (await desk.failure()).startswith(f"status {status}")
        assert len(backend.requests) == 1


@pytest.mark.parametrize("announced", [True, False])
async def test_ten_megabytes_are_cut(announced: bool) -> None:
    """A 10 MB answer is a failure, of which little more than the limit is read, whether it says its length or not."""
    written = 0
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 10000000\r\n\r\n" if announced else b"\r\n"))
        try:
            for _ in range(10):
                writer.write(b" " * 1_000_000)
                await writer.drain()
                written += 1_000_000
        finally:
            done.set()

    async with RawBackend(serve) as backend, Desk(backend.url, report_timeout_ms=5000) as desk:
        assert await desk.failure() == "longer than 65536 bytes"
        await asyncio.wait_for(done.wait(), WAIT_S)
    assert written < 10_000_000, "the connection was ended before all was sent"


async def test_compressed_answers_are_not_unpacked() -> None:
    """A small body that would unpack to a huge one stays small, and is no report."""

    async def bomb(request: web.Request) -> web.StreamResponse:
        import gzip

        return web.Response(body=gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"})

    async with WebBackend(bomb) as backend, Desk(backend.url, report_timeout_ms=8000) as desk:
        assert await desk.failure() == "no load report: not JSON"


async def test_a_hanging_backend_is_given_up() -> None:
    """No answer in time is a failure with the time in it."""
    async with RawBackend(hang) as backend, Desk(backend.url, report_timeout_ms=100) as desk:
        assert await desk.failure() == "no answer within 100 ms"


async def test_a_trickling_backend_is_given_up() -> None:
    """The time-out is for the whole answer, not for each byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with RawBackend(serve) as backend, Desk(backend.url, report_timeout_ms=200) as desk:
        assert await desk.failure() == "no answer within 200 ms"


async def test_failure_and_recovery_are_logged_once() -> None:
    """A backend that dies and comes back gives one line each, while each failure is told."""
    async with WebBackend(counting()) as backend:
        with structlog.testing.capture_logs() as logs:
            async with Desk(backend.url, cache_ttl_ms=30) as desk:
                await desk.report()
                await backend.stop()
                for _ in range(3):
                    assert await desk.failure()
                await backend.start()
                await desk.report()
        assert [line["event"] for line in logs] == ["report_failed", "report_recovered"]
        assert logs[0]["backend"] == backend.url
        assert logs[0]["why"]


# --- when it is asked -------------------------------------------------------------------------------------------------


async def test_asked_again_and_again() -> None:
    """Each interval brings a new report, asked for later than the one before."""
    async with WebBackend(counting()) as backend, Desk(backend.url, cache_ttl_ms=20) as desk:
        assert [(await desk.report()).agentsConnections for _ in range(5)] == [1, 2, 3, 4, 5]
        assert desk.asked_at == sorted(desk.asked_at)


async def test_who_reports_on_its_own_is_not_asked() -> None:
    """A backend that is heard within each interval is asked the first time alone."""
    async with WebBackend(counting()) as quiet, WebBackend(counting()) as pushing:
        async with Desk(quiet.url, pushing.url, cache_ttl_ms=200) as desk:
            await desk.report()
            await desk.report()
            async with asyncio.timeout(WAIT_S):
                while len(quiet.requests) < 5:
                    desk.poller.reported(pushing.url)
                    await asyncio.sleep(0.01)
        assert len(pushing.requests) == 1


async def test_changing_the_list() -> None:
    """Who joins is asked at once; of who left nothing is told, not even what was under way."""
    release = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.json_response({"agentsConnections": 99})

    for ttl_ms in (600_000, 0):
        release.clear()
        async with WebBackend(late) as old, WebBackend(counting()) as new:
            desk = Desk(old.url, cache_ttl_ms=ttl_ms, report_timeout_ms=5000)
            async with desk, asyncio.timeout(WAIT_S):
                while not old.requests:
                    await asyncio.sleep(0.005)
                desk.set(new.url)
                assert (await desk.next())[0] == new.url
                release.set()
                desk.poller.reported(old.url)
                await desk.poller.refresh([old.url, new.url])
                assert [url for url, _ in desk.drain()] == [new.url]


# --- fresh reports ----------------------------------------------------------------------------------------------------


async def test_a_fresh_report_is_asked_after_the_call() -> None:
    """With a time to live of 0 nothing is asked by the clock but once, and each refresh brings a later report."""
    async with WebBackend(counting()) as backend, Desk(backend.url, cache_ttl_ms=0) as desk:
        assert (await desk.report()).agentsConnections == 1
        for expected in (2, 3, 4):
            called = time.monotonic()
            await desk.poller.refresh([backend.url])
            (told,) = desk.drain()
            assert told == (backend.url, LoadReport(expected))
            assert desk.asked_at[-1] >= called


async def test_concurrent_callers_share_a_round() -> None:
    """A hundred callers at once cost one question; those that come while it is under way share the next one."""
    gate = asyncio.Semaphore(0)
    count = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal count
        await gate.acquire()
        count += 1
        return web.json_response({"agentsConnections": count})

    async with WebBackend(answer) as backend, Desk(backend.url, cache_ttl_ms=0, report_timeout_ms=8000) as desk:
        gate.release()
        assert (await desk.report()).agentsConnections == 1

        async with asyncio.TaskGroup() as group:
            early = [group.create_task(desk.poller.refresh([backend.url])) for _ in range(100)]
            while len(backend.requests) < 2:
                await asyncio.sleep(0.005)
            late = [group.create_task(desk.poller.refresh([backend.url])) for _ in range(100)]
            await asyncio.sleep(0.02)
            assert len(backend.requests) == 2
            gate.release()
            await asyncio.wait(early)
            assert not any(task.done() for task in late), "what was asked before their call is not fresh"
            gate.release()
        assert len(backend.requests) == 3


async def test_a_cancelled_caller_does_not_end_the_round() -> None:
    """One caller leaves, the other still gets its report."""
    gate = asyncio.Event()
    gate.set()

    async def answer(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.json_response({"agentsConnections": 1})

    async with WebBackend(answer) as backend, Desk(backend.url, cache_ttl_ms=0, report_timeout_ms=8000) as desk:
        await desk.report()
        gate.clear()
        leaves, stays = (asyncio.create_task(desk.poller.refresh([backend.url])) for _ in range(2))
        while len(backend.requests) < 2:
            await asyncio.sleep(0.005)
        leaves.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaves
        gate.set()
        await asyncio.wait_for(stays, WAIT_S)
        assert isinstance(desk.drain()[0][1], LoadReport)


async def test_all_are_asked_together_and_the_dead_one_delays_once() -> None:
    """A refresh asks all at the same time; a backend that hangs is waited for once, and no more until it is back."""
    mend = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await mend.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"agentsConnections": 6}')

    async with RawBackend(serve) as hanging, WebBackend(counting()) as well:
        desk = Desk(hanging.url, well.url, cache_ttl_ms=0, report_timeout_ms=300)
        async with desk, asyncio.timeout(WAIT_S):
            await desk.poller.refresh([hanging.url, well.url])
            assert (hanging.url, "no answer within 300 ms") in desk.drain()
            begin = time.monotonic()
            for _ in range(5):
                await desk.poller.refresh([hanging.url, well.url])
            assert time.monotonic() - begin < patient(0.25)
            assert sum(url == well.url for url, _ in desk.drain()) == 5
            mend.set()
            while not any(told == (hanging.url, LoadReport(6)) for told in desk.drain()):
                await desk.poller.refresh([hanging.url, well.url])
                await asyncio.sleep(0.01)


async def test_refresh_of_nothing() -> None:
    """No backend or an unknown one: nothing to wait for."""
    async with Desk(cache_ttl_ms=0) as desk:
        await asyncio.wait_for(desk.poller.refresh([]), WAIT_S)
        await asyncio.wait_for(desk.poller.refresh(["http://unknown:1"]), WAIT_S)


async def test_close_ends_what_is_under_way() -> None:
    """Closing in the middle of questions leaves no task and tells nothing."""
    for ttl_ms in (0, 600_000):
        async with RawBackend(hang) as backend:
            desk = Desk(backend.url, cache_ttl_ms=ttl_ms, report_timeout_ms=60_000)
            await desk.poller.start()
            async with asyncio.timeout(WAIT_S):
                while not backend.connections:
                    await asyncio.sleep(0.005)
            waiting = asyncio.create_task(desk.poller.refresh([backend.url]))
            await asyncio.sleep(0)
            await desk.poller.close()
            await asyncio.wait({waiting}, timeout=WAIT_S)
            assert waiting.done()
            assert desk.drain() == []


@pytest.mark.parametrize(("pod_ip", "connections"), [("10.9.9.9", 2), ("127.0.0.1", 1)])
async def test_what_leads_to_several_pods_gets_a_connection_for_each_request(pod_ip: str, connections: int) -> None:
    """A balancer in between would lead a connection that is kept to the same pod for ever."""
    peers: set[object] = set()

    async def report(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({"agentsConnections": 1, "podIP": pod_ip})

    async with WebBackend(report) as backend, Desk(backend.url, cache_ttl_ms=50) as desk:
        # The first answer says where it comes from; from then on it counts.
        await desk.next()
        peers.clear()
        for _ in range(4):
            await desk.next()
        assert len(peers) >= connections if connections > 1 else len(peers) == 1
