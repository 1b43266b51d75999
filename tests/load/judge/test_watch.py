"""Watching servers: what is read from their /metrics, which ones are found, and what happens when they misbehave."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.load.counted_servers import CountingClient, ServerProcess
from tests.support.load.exposition import Answer, StartAnswering, exposition, meter, tell
from tests.support.patience import patient
from trunkline.load.client.dial import tls_context
from trunkline.load.judge.watch import watching
from trunkline.load.model.plan import Target
from trunkline.load.model.tally import Totals


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
