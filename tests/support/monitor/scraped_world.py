"""Everything that dashboards are about, running, and scraped each second.

A fleet under load and in a little trouble, its relay, a balancer that steers Traefik, node exporter, PostgreSQL with
its exporter, Prometheus and Alertmanager. What cannot run here, cAdvisor and the NATS exporter, is served from
`recorded/*.prom`; its counters go on counting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml
from aiohttp import web

from tests.support.free_ports import free_port, free_ports
from tests.support.monitor.serving import running
from tests.support.monitor.watchers import alertmanager, answer, laid_out, monitor, process, prometheus
from tests.support.patience import patient
from trunkline.monitor.files.postgres import queries_yaml
from trunkline.monitor.files.prometheus import prometheus_yaml
from trunkline.monitor.rules.load import groups as rule_groups
from trunkline.monitor.rules.render import rules_path, rules_yaml
from trunkline.monitor.rules.rule import Group

RECORDED = Path(__file__).with_name("recorded")
TRAEFIK = Path(sys.executable).with_name("traefik")
NODE_EXPORTER = "prometheus-node-exporter"
POSTGRES_EXPORTER = "prometheus-postgres-exporter"
POSTGRES_USER = "postgres"
LOAD_S = 6
GROWING = re.compile(r"(?m)^((?:\w+_total|gnatsd_varz_(?:in|out)_\w+|jetstream_stream_last_seq)\{.*\}) (\S+)$")


def postgres_programs() -> Path | None:
    """The directory of PostgreSQL's programs, None when PostgreSQL cannot run here."""
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = beside[-1].parent if beside else None
    with contextlib.suppress(KeyError):
        pwd.getpwnam(POSTGRES_USER)
        return found if shutil.which(POSTGRES_EXPORTER) else None
    return None


@contextlib.asynccontextmanager
async def recorded(name: str) -> AsyncIterator[str]:
    """Serve a recorded answer; where it listens."""
    text, begun = (RECORDED / name).read_text(), time.monotonic()

    def grown(found: re.Match[str]) -> str:
        return f"{found[1]} {float(found[2]) * (1 + (time.monotonic() - begun) / 100)}"

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=GROWING.sub(grown, text), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def postgres(programs: Path, tmp_path: Path) -> AsyncIterator[str]:
    """PostgreSQL with a table that needs a vacuum, and its exporter; where the exporter listens."""
    home, port, own_port = Path(tempfile.mkdtemp(prefix="trunkline-pg-")), free_port(), free_port()
    shutil.chown(home, POSTGRES_USER)
    # PostgreSQL refuses to run as root.
    as_user = ["runuser", "-u", POSTGRES_USER, "--"] if os.getuid() == 0 else []
    flags = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
    flags += " -c shared_preload_libraries=pg_stat_statements"

    async def run(*command: str) -> None:
        await asyncio.to_thread(
            subprocess.run, command, check=True, timeout=patient(30), cwd=home, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    data = str(home / "data")
    try:
        await run(*as_user, f"{programs}/initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
        await run(*as_user, f"{programs}/pg_ctl", "-D", data, "-o", flags, "-l", str(home / "log"), "-w", "start")
        try:
            for statement in (
                "CREATE EXTENSION pg_stat_statements",
                "CREATE TABLE matches AS SELECT n AS id, repeat('x', 100) AS state FROM generate_series(1, 20000) AS n",
                "DELETE FROM matches WHERE id % 2 = 0",
                "ANALYZE matches",
            ):
                await run(f"{programs}/psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", statement)
            (tmp_path / "queries.yml").write_text(queries_yaml())
            source = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
            command = ("env", f"DATA_SOURCE_NAME={source}", POSTGRES_EXPORTER)
            command += (f"--web.listen-address=127.0.0.1:{own_port}", f"--extend.query-path={tmp_path}/queries.yml")
            async with process(tmp_path / "postgres.log", f"http://127.0.0.1:{own_port}/metrics", *command):
                yield f"127.0.0.1:{own_port}"
        finally:
            await run(*as_user, f"{programs}/pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.asynccontextmanager
async def steered_traefik(tmp_path: Path, nats: str, node: str) -> AsyncIterator[tuple[str, str, str]]:
    """A balancer that steers the real Traefik; its admin address, Traefik's metrics, and where clients connect."""
    (tmp_path / "steer").mkdir()
    balancer, admin, http, metrics, open_port, ping = (free_port() for _ in range(6))
    environ = {
        "TRUNKLINE_TRAEFIK_STEER": "true", "TRUNKLINE_TRAEFIK_HOST": "127.0.0.1",
        "TRUNKLINE_TRAEFIK_HTTP_PORT": str(http), "TRUNKLINE_TRAEFIK_HTTPS_PORT": "0",
        "TRUNKLINE_TRAEFIK_METRICS_PORT": str(metrics), "TRUNKLINE_TRAEFIK_FAIL_OPEN_PORT": str(open_port),
        "TRUNKLINE_TRAEFIK_PING_PORT": str(ping), "TRUNKLINE_TRAEFIK_BALANCER_URL": f"http://127.0.0.1:{balancer}",
        "TRUNKLINE_TRAEFIK_POLL_INTERVAL_MS": "200", "TRUNKLINE_TRAEFIK_DOMAIN": "*",
        "TRUNKLINE_TRAEFIK_SAME_SITE": "lax", "TRUNKLINE_BUS_URL": nats,
        "TRUNKLINE_BALANCER_ADMIN_PORT": str(admin),
    }  # fmt: skip
    files = (tmp_path / "traefik.yml", tmp_path / "dynamic.yml")
    render = [sys.executable, "-m", "trunkline", "traefik", "render", "--static", str(files[0]), "--dynamic"]
    await asyncio.to_thread(
        subprocess.run,
        [*render, str(files[1])],
        env=os.environ | environ,
        cwd=tmp_path,
        check=True,
        timeout=patient(30),
    )
    static = yaml.safe_load(files[0].read_text())
    # Traefik counts servers that are up only for services with a health check, and a steered one has none.
    checked = {"url": node}, {"path": "/healthz", "interval": "1s"}
    service = {"loadBalancer": {"servers": [checked[0]], "healthCheck": checked[1]}}
    router = {"rule": "PathPrefix(`/healthz`)", "service": "checked", "entryPoints": ["web"], "priority": 1_000_000}
    static["providers"]["file"] = {"filename": str(tmp_path / "checked.yml")}
    dynamic = {"http": {"routers": {"checked": router}, "services": {"checked": service}}}
    (tmp_path / "checked.yml").write_text(yaml.safe_dump(dynamic))
    files[0].write_text(yaml.safe_dump(static))
    arguments = ("balance", "--mode", "steer", "--listen", f"127.0.0.1:{balancer}")
    async with (
        running(tmp_path / "steer", *arguments, ready=f"http://127.0.0.1:{admin}/ready", **environ),
        process(tmp_path / "traefik.log", f"http://127.0.0.1:{http}/healthz", str(TRAEFIK), f"--configFile={files[0]}"),
    ):
        yield f"127.0.0.1:{admin}", f"127.0.0.1:{metrics}", f"127.0.0.1:{http}"


async def load(tmp_path: Path, url: str, name: str, *arguments: str) -> None:
    """`trunkline load` for a few seconds; what it found is not judged here."""
    with (tmp_path / f"load-{name}.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", "load", url, "--duration", f"{LOAD_S}s", *arguments,
            cwd=tmp_path, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    await asyncio.wait_for(child.wait(), patient(60))


async def trouble(edge: str, traefik: str, node: str, rounds: int, scratch: Path) -> None:
    """What goes wrong in any fleet: unknown messages, too many of them, refused handshakes."""
    async with aiohttp.ClientSession() as http:
        for number in range(rounds):
            for origin in (edge, traefik, node):
                async with http.get(f"http://{origin}/healthz") as answer:
                    await answer.read()
                # A WebSocket where there is none.
                with contextlib.suppress(aiohttp.WSServerHandshakeError):
                    await http.ws_connect(f"ws://{origin}/nothing-here")
            async with http.ws_connect(f"ws://{node}/ws") as client:
                await client.send_str("this is no message")
                await client.send_str(json.dumps({"type": "subscribe", "channel": "public.trouble"}))
                # Far over the rate of one client.
                for _ in range(400 if number == 0 else 1):
                    await client.send_str(json.dumps({"type": "ping"}))
                await client.receive(timeout=patient(5))
            await asyncio.to_thread(_write, scratch)
            await asyncio.sleep(1)


def _write(scratch: Path) -> None:
    """Give the disk something to do."""
    with scratch.open("wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())


@contextlib.asynccontextmanager
async def scraped_world(tmp_path: Path) -> AsyncIterator[str]:
    """All of it, after some seconds of load; Prometheus's address."""
    port, fleet_dir = free_ports(8), tmp_path / "fleet"
    fleet_dir.mkdir()
    up = ("up", "--json", "--nodes", "2", "--port", str(port), "--data-dir", str(fleet_dir / "data"))
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # A busy machine may hold up the nodes; they take clients all the same.
        limits = {"TRUNKLINE_SERVER_MEMORY_LIMIT_BYTES": "2GiB", "TRUNKLINE_LIMITS_LOOP_LAG_SHED_MS": "60000"}
        machine, alerts, own = (f"127.0.0.1:{free_port()}" for _ in range(3))
        node_exporter = (NODE_EXPORTER, f"--web.listen-address={machine}")
        programs, quiet = postgres_programs(), tmp_path / "alertmanager.yml"
        quiet.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        entered = await asyncio.gather(
            enter(running(fleet_dir, *up, ready=f"http://127.0.0.1:{port}/healthz", **limits)),
            enter(process(tmp_path / "node.log", f"http://{machine}/metrics", *node_exporter)),
            enter(alertmanager(quiet, _port(alerts))),
            enter(recorded("cadvisor.prom")),
            enter(recorded("nats_exporter.prom")),
            *((enter(postgres(programs, tmp_path)),) if programs else ()),
            return_exceptions=True,
        )
        # Raised only now that all of them are up or have failed, so that each is ended.
        for each in entered:
            if isinstance(each, BaseException):
                raise each
        _, _, _, cadvisor, nats_exporter, *databases = entered
        told = await _addresses(fleet_dir / "stdout")
        nodes = tuple(node["page"].removeprefix("http://") for node in told["nodes"])
        relay, edge = told["edge"]["balancer"].split("/")[2], told["edge"]["page"].removeprefix("http://")
        steering, traefik_metrics, traefik = await enter(
            steered_traefik(tmp_path, told["nats"], told["nodes"][0]["page"])
        )
        settings = monitor(
            scrape_interval_ms=1000, scrape_timeout_ms=1000, evaluation_interval_ms=1000, nodes=nodes,
            balancers=(relay, steering), traefik=(traefik_metrics,), node_exporters=(machine,),
            postgres_exporters=tuple(databases), cadvisors=(cadvisor,),
            nats_exporters=(nats_exporter,),
            alertmanagers=(alerts,), prometheus_url=f"http://{own}",
        )  # fmt: skip
        groups = [_hasty(group) for group in rule_groups(settings.monitor)]
        texts = {f"prometheus/{rules_path(group.name)}": rules_yaml(group) for group in groups}
        texts["prometheus/prometheus.yml"] = prometheus_yaml(settings, tuple(group.name for group in groups))
        directory = laid_out(tmp_path / "monitor", texts)
        url = await enter(prometheus(directory, _port(own)))
        # A counter grows only beside an earlier sample, and Prometheus takes some seconds to its first. The eight: two
        # balancers, Traefik, machine, cAdvisor, NATS, Alertmanager and Prometheus.
        await _seen(url, f"count(up == 1) == {len(nodes) + len(databases) + 8}")
        await asyncio.gather(
            load(tmp_path, f"ws://{edge}/ws", "relay", "--scenario", "replay", "--connections", "20", "--rate", "30"),
            load(tmp_path, f"ws://{traefik}/ws", "traefik", "--connections", "6", "--rate", "10"),
            trouble(edge, traefik, nodes[0], LOAD_S, tmp_path / "scratch"),
        )
        async with aiohttp.ClientSession() as http:
            # A share of clients needs some; both nodes get theirs.
            clients = [await http.ws_connect(f"ws://{node}/ws") for node in nodes]
            await _seen(url, f"sum(ws_connections_active) == {len(clients)}")
            yield url


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _hasty(group: Group) -> Group:
    """A group that is evaluated each second, and whose watchdog fires at once; elsewhere both take their time."""
    sooner = tuple(
        msgspec.structs.replace(rule, lasts="1s") if rule.name == "TrunklineWatchdog" else rule for rule in group.rules
    )
    return msgspec.structs.replace(group, interval="1s", rules=sooner)


async def _seen(url: str, expression: str) -> None:
    """Wait until an expression gives something."""
    async with asyncio.timeout(patient(30)):
        while not (await answer(f"{url}/api/v1/query", query=expression))["data"]["result"]:
            await asyncio.sleep(0.2)


async def _addresses(output: Path) -> dict[str, Any]:
    async with asyncio.timeout(patient(30)):
        while True:
            for line in output.read_text().splitlines():
                said: dict[str, Any] = json.loads(line)
                if said["type"] == "addresses":
                    return said
            await asyncio.sleep(0.05)
