"""Watching servers: what is read from their /metrics, which ones are found, and what happens when they misbehave."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.support.free_ports import free_ports
from tests.support.load.counted_servers import CountingClient, ServerProcess
from tests.support.patience import patient
from trunkline.errors import SettingsError
from trunkline.load.client.dial import tls_context
from trunkline.load.judge.discovery import discover
from trunkline.load.judge.scrape import Counters, Course, Scrape, fell, minus, plus, read
from trunkline.load.judge.watch import watching
from trunkline.load.model.plan import Target
from trunkline.load.model.tally import Totals
from trunkline.metrics import exposition as metrics
from trunkline.metrics import text

GAUGES = metrics.Gauges(
    7, 100, 5_000_000, 0, 12.5, 3, True, 900, 1, 0.25, True, 2, 4, ("0.1.0", 'odd "name"\n', "blue")
)


def meter() -> metrics.Meter:
    """A node's counts, a different one in each place."""
    made = metrics.Meter()
    made.connections, made.messages_sent, made.messages_received = 11, 12, 13
    made.slow_clients_disconnected = 16
    made.disconnects.add("normal", "client", times=18)
    made.disconnects.add("too_slow", "server", times=19)
    made.publications_dropped.add("slow_client", times=20)
    return made


COUNTERS = Counters(
    connections=11,
    messages_sent=12,
    messages_received=13,
    disconnects={("normal", "client"): 18, ("too_slow", "server"): 19},
    publications_dropped={"slow_client": 20},
    slow_clients_disconnected=16,
    active=7,
)


def exposition(node: str = GAUGES.build[1], made: metrics.Meter | None = None) -> str:
    """What a node with these counts answers."""
    families = metrics.families(made or meter(), GAUGES._replace(build=("0.1.0", node, "blue")), ("websocket",))
    return text.render(families).decode()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_every_count_is_read_into_its_place() -> None:
    """The exposition of a node is read back: counters with their labels, gauges, name and version."""
    assert read(exposition()) == Scrape('odd "name"\n', "0.1.0", COUNTERS, 12.5, 5_000_000, 900, 0.25, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not metrics</html>",
        "process_cpu_seconds_total 3\n",
        "ws_connections_total 3\n",
        "ws_connections_total many\nws_build_info{node='a'} 1\n",
        exposition().replace("ws_messages_sent_total 12.0", "ws_messages_sent_total NaN"),
        exposition() + "ws_cpu_usage_percent NaN\n",
        exposition() + "ws_event_loop_lag_seconds +Inf\n",
        exposition().replace("ws_messages_sent_total 12.0", "ws_messages_sent_total 1e300"),
        exposition() + 'ws_publications_dropped_total{reason="x"} 1\n' * 3000,
    ],
)
def test_what_is_not_a_node_is_no_answer(text: str) -> None:
    """Other exporters, pages, broken numbers and endless series are no answer, and raise nothing."""
    assert read(text) is None


@given(
    st.text() | st.text(alphabet='ws_build_info{}connections_total="\\ \n0123456789.e').map(lambda t: exposition() + t)
)
def test_no_answer_raises(text: str) -> None:
    """Any text is read without an exception."""
    assert read(text) is None or isinstance(read(text), Scrape)


def test_counts_add_up_and_differ() -> None:
    """Sum and difference undo each other, label by label; any count that falls is noticed, active ones may fall."""
    twice = plus(COUNTERS, COUNTERS)
    assert twice.disconnects == {("normal", "client"): 36, ("too_slow", "server"): 38}
    assert minus(twice, COUNTERS) == COUNTERS
    assert not fell(twice, COUNTERS)
    assert not fell(msgspec.structs.replace(COUNTERS, active=0), COUNTERS)
    assert fell(msgspec.structs.replace(COUNTERS, messages_sent=11), COUNTERS)
    assert fell(msgspec.structs.replace(COUNTERS, publications_dropped={"OTHER": 90}), COUNTERS)


def test_a_new_process_goes_on_from_the_old_ones_counts() -> None:
    """Counts that fall, or another name, are a restart: sums go on, and the connections of the dead are not open."""
    course = Course()
    for scrape in (
        Scrape("a", "1", Counters(connections=10, active=4)),
        Scrape("a", "1", Counters(connections=2, active=1)),
        Scrape("b", "1", Counters(connections=5, active=2)),
    ):
        course.add(scrape)
    assert course.restarted == ["a", "a"]
    assert course.counters == Counters(connections=17, active=2)


def test_servers_that_answer_in_turn_are_noticed() -> None:
    """A name that comes back after another means several servers behind one URL, whose counts mean nothing."""
    course = Course()
    for name in "abab":
        course.add(Scrape(name, "1", Counters(connections=10)))
    assert course.mixed
    assert course.counters is None


# --- asking -----------------------------------------------------------------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def answering() -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Start an HTTP server that answers as told; gives its port."""
    runners: list[web.AppRunner] = []

    async def start(answer: Answer, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


StartAnswering = Callable[..., Awaitable[int]]


async def tell(request: web.Request) -> web.Response:
    """A well-behaved server's /metrics."""
    return web.Response(text=exposition("good")) if request.path == "/metrics" else web.Response(status=404)


async def test_a_running_node_is_sampled_every_second(tmp_path: Path) -> None:
    """The newest sample shows a connection soon after it has opened, with memory and the moment it was asked for."""
    server = await ServerProcess.serve(tmp_path)
    try:
        async with watching([f"{server.url}/metrics"], interval_s=0.05) as watch:
            assert watch.sample(0.0) is None
            client = await CountingClient.open(Totals(), server.port, "/ws/echo")
            async with asyncio.timeout(patient(5)):
                while (sample := watch.sample(3.5)) is None or sample.connections == 0:
                    await asyncio.sleep(0.01)
            assert (sample.at_s, sample.servers, sample.connections, sample.draining) == (3.5, 1, 1, 0)
            assert sample.memory_bytes > 1 << 20
            await client.close()
            assert watch.notes == []
    finally:
        await server.stop()


async def test_samples_are_summed_and_the_busiest_counts(answering: StartAnswering) -> None:
    """Over two servers: connections, memory, outboxes and draining ones added, CPU and lag the highest."""

    async def other(request: web.Request) -> web.Response:
        return web.Response(text=exposition("other").replace("percent 12.5", "percent 90"))

    ports = [await answering(tell), await answering(other)]
    async with watching([f"http://127.0.0.1:{port}/metrics" for port in ports]) as watch:
        await watch.snapshot()
        sample = watch.sample(1.0)
    assert sample is not None
    assert (sample.servers, sample.connections, sample.cpu_percent, sample.memory_bytes) == (2, 14, 90, 10_000_000)
    assert (sample.outbox_bytes, sample.loop_lag_s, sample.draining) == (1800, 0.25, 2)


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(5)
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(exposition("endless").encode())
    for _ in range(10):
        await response.write(b"# " + b"x" * (1 << 20) + b"\n")
    return response


async def redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere") if request.path == "/metrics" else web.HTTPNotFound


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.Response(status=403, text=exposition("refusing"))


@pytest.mark.parametrize("answer", [hang, endless, redirect, refuse])
async def test_a_server_that_misbehaves_is_silent(
    answer: Answer, answering: StartAnswering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs, never ends, redirects or refuses is named, and the others are heard in the same round."""
    monkeypatch.setattr("trunkline.load.judge.scraper.ANSWER_S", 0.5)
    good, bad = [f"http://127.0.0.1:{await answering(each)}/metrics" for each in (tell, answer)]
    async with watching([good, bad, "http://127.0.0.1:1/metrics"]) as watch:
        async with asyncio.timeout(patient(3)):
            snapshot = await watch.snapshot()
        assert list(snapshot.servers) == [good]
        assert snapshot.silent == (bad, "http://127.0.0.1:1/metrics")
        assert watch.notes == [f"{url} has not answered as a Trunkline server does" for url in snapshot.silent]


async def test_a_snapshot_waits_until_the_counts_rest(answering: StartAnswering) -> None:
    """With time to settle it is asked again until two answers are the same and no more connections are left."""
    asked = 0

    async def settling(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        made = meter()
        made.messages_received = min(asked, 4)
        return web.Response(text=exposition("settling", made))

    url = f"http://127.0.0.1:{await answering(settling)}/metrics"
    async with watching([url], interval_s=100) as watch:
        snapshot = await watch.snapshot(settle_s=patient(5))
        assert snapshot.servers[url].messages_received == 4
        started = asyncio.get_running_loop().time()
        await watch.snapshot(settle_s=0.5, left=6)
        assert 0.4 < asyncio.get_running_loop().time() - started < patient(2)


async def test_answers_that_overtake_each_other_are_no_restart(answering: StartAnswering) -> None:
    """A snapshot during a slow round waits for it, so that counts never seem to fall."""
    asked = 0
    first = asyncio.Event()

    async def slow_at_first(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        made = meter()
        made.messages_received = asked
        text = exposition("slow", made)
        if asked == 1:
            first.set()
            await asyncio.sleep(0.2)
        return web.Response(text=text)

    async with watching([f"http://127.0.0.1:{await answering(slow_at_first)}/metrics"], interval_s=0.05) as watch:
        await first.wait()
        await watch.snapshot()
        async with asyncio.timeout(patient(5)):
            # The watch asks again when the slow answer has come.
            while asked < 4:
                await asyncio.sleep(0.01)
        assert (await watch.snapshot()).restarted == ()


async def test_certificates_are_verified(answering: StartAnswering, tmp_path: Path) -> None:
    """An unknown certificate is no answer, unless its authority is named or verification is switched off."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = certificate(tmp_path)
    context.load_cert_chain(file)
    url = f"https://127.0.0.1:{await answering(tell, tls=context)}/metrics"
    for options, heard in (({}, False), ({"ca_file": str(file)}, True), ({"verify_tls": False}, True)):
        tls = tls_context(Target(url, **options))  # type: ignore[arg-type]
        async with watching([url], tls=tls) as watch:
            assert bool((await watch.snapshot()).servers) is heard


def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


# --- discovery --------------------------------------------------------------------------------------------------------


async def test_named_servers_are_taken_as_they_are() -> None:
    """What the user names is not asked about; a bare origin gets its path; only these may get the token."""
    found = await discover("wss://live.example.org/ws", ["http://10.0.0.1:3001", "https://b.example/own/metrics"])
    assert found.urls == ("http://10.0.0.1:3001/metrics", "https://b.example/own/metrics")
    assert found.named


@pytest.mark.parametrize("url", ["10.0.0.1:3001", "ws://10.0.0.1", "http://", "http://u:secret@a/", "http://a:99999/"])
async def test_a_named_url_that_cannot_be_asked_is_refused(url: str) -> None:
    """The error says what is taken, and shows no password."""
    with pytest.raises(SettingsError, match="--metrics") as caught:
        await discover("ws://127.0.0.1:1/ws", [url])
    assert "secret" not in str(caught.value)


async def test_a_single_server_is_found_at_the_target(answering: StartAnswering) -> None:
    """No balancer there: the target's own /metrics, if it is always the same server."""
    port = await answering(tell, free_ports(2))
    found = await discover(f"ws://127.0.0.1:{port}/ws")
    assert found.urls == (f"http://127.0.0.1:{port}/metrics",)
    assert not found.named


async def test_an_edge_that_passes_metrics_on_is_noticed(answering: StartAnswering) -> None:
    """Different servers answer at the target: none is watched, and the note says what to name."""
    asked = 0

    async def in_turn(request: web.Request) -> web.Response:
        nonlocal asked
        asked += request.path == "/metrics"
        return (
            web.Response(text=exposition(f"node-{asked % 2}"))
            if request.path == "/metrics"
            else web.Response(status=404)
        )

    port = await answering(in_turn, free_ports(2))
    found = await discover(f"ws://127.0.0.1:{port}/ws")
    assert found.urls == ()
    assert "2 servers answer" in found.note
    assert "node-0, node-1" in found.note
    async with watching([url := f"http://127.0.0.1:{port}/metrics"], interval_s=0.02) as watch:
        async with asyncio.timeout(patient(5)):
            while not watch.notes or "in turn" not in watch.notes[0]:
                await asyncio.sleep(0.01)
        snapshot = await watch.snapshot()
        assert (snapshot.servers, snapshot.mixed) == ({}, (url,))


async def test_nothing_is_found_at_a_foreign_server(answering: StartAnswering) -> None:
    """A server that has no such series, or none at all, is said to have none, and that is no error."""

    async def foreign(request: web.Request) -> web.Response:
        return web.Response(text="go_goroutines 8\n")

    port = await answering(foreign, free_ports(2))
    for target in (f"ws://127.0.0.1:{port}/ws", "ws://127.0.0.1:1/ws"):
        found = await discover(target)
        assert found.urls == ()
        assert "does not answer as a Trunkline server does" in found.note


async def test_backends_come_from_the_balancers_page(answering: StartAnswering) -> None:
    """Its admin port is asked first; odd addresses are left out, silent backends named, and no token is sent there."""
    seen: list[str] = []
    backends: list[str] = []

    async def backend(request: web.Request) -> web.Response:
        seen.extend(request.headers.getall("Authorization", []))
        return await tell(request)

    async def admin(request: web.Request) -> web.Response:
        seen.extend(request.headers.getall("Authorization", []))
        if request.path != "/balancer-metrics":
            return web.Response(status=404)
        return web.Response(text=json.dumps({"services": [{"url": url, "connections": 1} for url in backends]}))

    first = free_ports(2)
    await answering(tell, first)
    await answering(admin, first + 1)
    backends += [
        f"http://127.0.0.1:{await answering(backend)}/",
        "http://127.0.0.1:1",
        "file:///etc/passwd",
        "nonsense",
    ]
    found = await discover(f"ws://127.0.0.1:{first}/ws")
    assert found.urls == (f"{backends[0]}metrics", "http://127.0.0.1:1/metrics")
    assert found.note == (
        f"2 backends of the balancer at http://127.0.0.1:{first + 1}/balancer-metrics; "
        "without an answer as a Trunkline server gives it: http://127.0.0.1:1/metrics"
    )
    assert seen == []
    async with watching(found.urls[:1], "a token") as watch:
        await watch.snapshot()
    assert set(seen) == {"Bearer a token"}
    del backends[:1]
    none = await discover(f"ws://127.0.0.1:{first}/ws")
    assert none.urls == ()
    assert none.note.startswith("no backend of the balancer")
