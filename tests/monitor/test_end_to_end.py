"""Alerts on the real thing: nodes, Prometheus, Alertmanager, webhook and mail server; each fires, arrives, resolves."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from tests.support.free_ports import free_port, free_ports
from tests.support.monitor.watchers import ALERTMANAGER, needs
from tests.support.patience import patient

pytestmark = needs("prometheus", ALERTMANAGER, "prometheus-node-exporter")

SCRAPE_S = 1.0
GROUP_S = 1.0
PATIENCE = 0.02
LATE_S = 6.0
"""What a busy machine may be late by, all programs together."""


class Told:
    """What the webhook and the mail server were told."""

    def __init__(self) -> None:
        self.alerts: list[tuple[float, dict[str, Any]]] = []
        self.mails: list[str] = []
        self.news = asyncio.Event()

    async def on_post(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.alerts += [(time.monotonic(), alert) for alert in body["alerts"]]
        self.news.set()
        return web.Response()

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:  # the library's name
        parsed = email.message_from_bytes(envelope.content or b"", policy=email.policy.default)
        self.mails.append(f"{parsed['Subject']}\n{parsed.get_body(('plain', 'html')).get_content()}")  # type: ignore[union-attr]
        return "250 OK"

    async def hear(self, name: str, status: str, *, timeout_s: float = 60) -> tuple[float, dict[str, Any]]:
        """Wait for an alert; the moment it came, and the alert."""
        async with asyncio.timeout(patient(timeout_s)):
            while True:
                self.news.clear()
                for at, alert in self.alerts:
                    if alert["labels"]["alertname"] == name and alert["status"] == status:
                        return at, alert
                await self.news.wait()

    async def mailed(self, wanted: Callable[[str], bool]) -> str:
        """Wait for a mail."""
        async with asyncio.timeout(patient(30)):
            while True:
                for mail in self.mails:
                    if wanted(mail):
                        return mail
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    tmp_path: Path, *command: str, ready: str, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of ours from when `ready` answers 200 until the block is left."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    log = (tmp_path / f"{command[0]}-{command[-1].rpartition(':')[2].replace('/', '_')}.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", *command, cwd=tmp_path, stdout=log, stderr=log,
        env=kept | {"XDG_STATE_HOME": str(tmp_path / "state")} | environ,
    )  # fmt: skip
    try:
        async with asyncio.timeout(patient(30)), aiohttp.ClientSession() as http:
            while True:
                assert process.returncode is None, Path(log.name).read_text()
                try:
                    async with http.get(ready) as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), patient(15))
            except TimeoutError:
                process.kill()
                await process.wait()
        log.close()


@asynccontextmanager
async def listening(told: Told, webhook_port: int, smtp_port: int) -> AsyncIterator[None]:
    """A webhook receiver and a mail server."""
    application = web.Application()
    application.router.add_post("/alerts", told.on_post)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", webhook_port).start()
    mail = Controller(told, hostname="127.0.0.1", port=smtp_port)
    mail.start()
    try:
        yield
    finally:
        mail.stop()
        await runner.cleanup()


@asynccontextmanager
async def nats(tmp_path: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real NATS with JetStream on this port."""
    from trunkline.fleet.children.nats_server import find_binary

    process = await asyncio.create_subprocess_exec(
        str(find_binary()), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / "nats"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_alerts_fire_arrive_and_resolve(tmp_path: Path) -> None:
    """Clients nearly fill a node, half do not read, NATS dies: each is told by webhook, the critical ones by mail."""
    told = Told()
    webhook, smtp, bus, first = free_port(), free_port(), free_port(), free_ports(11)
    node, balancer = free_ports(2), free_ports(2)
    environ = {
        "TRUNKLINE_MONITOR_SCRAPE_INTERVAL_MS": str(int(SCRAPE_S * 1000)),
        "TRUNKLINE_MONITOR_SCRAPE_TIMEOUT_MS": "900",
        "TRUNKLINE_MONITOR_EVALUATION_INTERVAL_MS": "1000",
        "TRUNKLINE_MONITOR_GROUP_WAIT_MS": str(int(GROUP_S * 1000)),
        "TRUNKLINE_MONITOR_GROUP_INTERVAL_MS": str(int(GROUP_S * 1000)),
        "TRUNKLINE_MONITOR_PATIENCE": str(PATIENCE),
        "TRUNKLINE_MONITOR_WEBHOOK_URL": f"http://127.0.0.1:{webhook}/alerts",
        "TRUNKLINE_MONITOR_EMAIL_TO": "oncall@example.org",
        "TRUNKLINE_MONITOR_SMTP": f"127.0.0.1:{smtp}",
        "TRUNKLINE_MONITOR_SMTP_TLS": "false",
    }
    serve = ("serve", "--host", "127.0.0.1", "--port", str(node), "--name", "one", "--bus", f"nats://127.0.0.1:{bus}")
    balance = ("balance", "--listen", f"127.0.0.1:{balancer}", "--backend", f"http://127.0.0.1:{node}")
    fleet = f"http://127.0.0.1:{balancer + 1}"
    watch = ("monitor", "up", "--fleet", fleet, "--port", str(first), "--data-dir", str(tmp_path / "watch"))
    async with (
        listening(told, webhook, smtp),
        nats(tmp_path, bus) as server,
        running(tmp_path, *serve, ready=f"http://127.0.0.1:{node}/ready", MAX_CONNECTIONS="25"),
        running(tmp_path, *balance, ready=f"{fleet}/ready"),
        running(tmp_path, *watch, ready=f"http://127.0.0.1:{first}/-/ready", **environ),
    ):
        await scraped(f"http://127.0.0.1:{first}", 'ws_nats_connected{job="trunkline-node"}')
        # Half of the clients do not read. One place stays free: the alert on a full node would keep this one quiet.
        (tmp_path / "crowd.toml").write_text(
            "[[stages]]\nduration = 0.2\nconnections = 24\n[[stages]]\nduration = 90\nconnections = 24\n"
            "[traffic]\nrate = 60\nmessage_bytes = 8000\nchannels = 1\nslow_share = 0.5\nslow_bytes_per_s = 100\n"
        )
        crowd = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", "load", f"ws://127.0.0.1:{node}/ws", "--scenario", "crowd.toml",
            "--no-watch", cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _, full = await told.hear("TrunklineCapacityCritical", "firing")
            assert full["labels"]["severity"] == "critical"
            assert "96%" in full["annotations"]["summary"]
            await told.hear("TrunklineSlowClients", "firing")
            await told.mailed(lambda mail: "TrunklineCapacityCritical" in mail)
        finally:
            # Twice, for it would wait for what its slow readers have not read; the first may be enough.
            for _ in range(2):
                with contextlib.suppress(ProcessLookupError):
                    crowd.send_signal(signal.SIGINT)
                await asyncio.sleep(0.2)
            await asyncio.wait_for(crowd.wait(), patient(60))
        await told.hear("TrunklineCapacityCritical", "resolved")
        # The bus dies.
        server.kill()
        await server.wait()
        began = time.monotonic()
        at, gone = await told.hear("TrunklineBusDisconnected", "firing")
        # Two scrapes and a group interval, beyond the time that it must last.
        assert at - began < 30 * PATIENCE + 2 * SCRAPE_S + GROUP_S + patient(LATE_S)
        assert gone["annotations"]["runbook_url"].endswith("runbooks/bus-disconnected.md")
        assert "TrunklineBusDisconnected" in await told.mailed(lambda mail: "BusDisconnected" in mail)
        async with nats(tmp_path, bus):
            await told.hear("TrunklineBusDisconnected", "resolved")


async def scraped(prometheus: str, series: str) -> None:
    """Wait until Prometheus has a sample of the series."""
    async with asyncio.timeout(patient(30)), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{prometheus}/api/v1/query", params={"query": series}) as answer:
                if json.loads(await answer.read())["data"]["result"]:
                    return
            await asyncio.sleep(0.1)


async def test_nodes_that_are_frozen_or_killed_are_alerts(tmp_path: Path) -> None:
    """Of three nodes one is stopped (SIGSTOP), one killed: both stay targets and alerts until they are there again.

    It takes its seconds: the alert has to last longer than a node may be silent.
    """
    bus, first = free_port(), free_ports(11)
    ports, balancer = [free_port() for _ in range(4)], free_ports(2)
    address = f"nats://127.0.0.1:{bus}"
    fleet, prometheus = f"http://127.0.0.1:{balancer + 1}", f"http://127.0.0.1:{first}"
    environ = {
        "TRUNKLINE_MONITOR_SCRAPE_INTERVAL_MS": "1000",
        "TRUNKLINE_MONITOR_SCRAPE_TIMEOUT_MS": "900",
        "TRUNKLINE_MONITOR_EVALUATION_INTERVAL_MS": "1000",
        # A minute becomes fifteen seconds.
        "TRUNKLINE_MONITOR_PATIENCE": "0.25",
    }
    nodes = [
        running(
            tmp_path, "serve", "--host", "127.0.0.1", "--name", name, "--bus", address, "--port", str(port),
            ready=f"http://127.0.0.1:{port}/ready", TRUNKLINE_ADMIN_PORT="0",
        )
        for name, port in zip(("one", "two", "three", "two"), ports, strict=True)
    ]  # fmt: skip
    balance = ("balance", "--listen", f"127.0.0.1:{balancer}", "--bus", address)
    watch = ("monitor", "up", "--fleet", fleet, "--data-dir", str(tmp_path / "watch"), "--port", str(first))
    firing = 'ALERTS{alertname="TrunklineNodeDown",alertstate="firing"}'
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(nats(tmp_path, bus))
        frozen, killed, _ = [await stack.enter_async_context(node) for node in nodes[:3]]
        await stack.enter_async_context(running(tmp_path, *balance, ready=f"{fleet}/ready"))
        await stack.enter_async_context(running(tmp_path, *watch, ready=f"{prometheus}/-/ready", **environ))
        await scraped(prometheus, 'count(up{job="trunkline-node"} == 1) == 3')
        frozen.send_signal(signal.SIGSTOP)
        try:
            killed.kill()
            await scraped(prometheus, f"count({firing}) == 2")
            await scraped(prometheus, 'count(ALERTS{alertname="TrunklineBackendDown"}) == 2')
            await scraped(prometheus, "count(ws_balancer_backend_up == 0) == 2")
        finally:
            frozen.send_signal(signal.SIGCONT)
        await stack.enter_async_context(nodes[3])
        # The killed one is replaced under its name at another port, the frozen one goes on.
        await scraped(prometheus, f"(count(ws_balancer_backend_up == 1) == 3) unless on () {firing}")
        await scraped(prometheus, f'absent(up{{instance="127.0.0.1:{ports[1]}"}})')
