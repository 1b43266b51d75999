"""The real Traefik reads the custom resources of the production overlay, and goes by the balancer's picks.

Pods are small WebSocket backends on loopback. The objects are changed in two places alone: where the balancer is, since
its name is one of a cluster, and the TLS secret, in place of which Traefik's own certificate serves.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests.support.free_ports import free_port
from tests.support.manifests.listed_cluster import listed
from tests.support.manifests.objects import Object, kustomized, objects
from tests.support.patience import patient
from tests.support.traefik.live_traefik import TRAEFIK
from tests.support.traefik.steered_fleet import Backend, CountingPlacer
from trunkline.placement.placing import Refusal
from trunkline.settings.sections import Settings
from trunkline.traefik.process import TraefikProcess
from trunkline.traefik.steer.handlers import Steering

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed (pip install 'trunkline[traefik]')")

HOST = "live.example.org"


class Answer(NamedTuple):
    """Status and headers of an answer; port of the backend that gave it, 0 for none."""

    status: int
    headers: dict[str, str]

    @property
    def backend(self) -> int:
        return int(self.headers.get("x-backend", 0))


class Cluster:
    """Backends as pods, the balancer, and Traefik before them."""

    def __init__(self, backends: list[Backend], placer: CountingPlacer, port: int, log: list[str]) -> None:
        self.backends = backends
        self.placer = placer
        self.port = port
        self.log = log

    async def ask(self, path: str = "/ws", *, ws: bool = True, **headers: str) -> Answer:
        """A handshake, or a plain GET, as a browser sends it."""
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting, server_hostname=HOST)
        fields = {"Host": HOST, **headers}
        if ws:
            fields |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            fields["Sec-WebSocket-Key"] = base64.b64encode(os.urandom(16)).decode()
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(patient(15)):
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        writer.close()
        return Answer(
            int(first.split(" ")[1]),
            {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)},
        )


def of_the_cluster(backends: list[Backend], balancer: str) -> list[Object]:
    """What Traefik reads: the overlay's objects, and an EndpointSlice for each backend."""
    found = [
        copy.deepcopy(each)
        for each in objects(kustomized("production")).values()
        if each["apiVersion"].startswith("traefik.io/")
        or (each["kind"], each["metadata"]["name"]) == ("Service", "trunkline-nodes")
    ]
    for each in found:
        if each["kind"] == "IngressRoute":
            each["spec"]["tls"] = {}
        if "forwardAuth" in each.get("spec", {}):
            auth = each["spec"]["forwardAuth"]
            auth["address"] = auth["address"].replace("http://trunkline-balancer:8080", balancer)
    return [*found, *(pod(number, each) for number, each in enumerate(backends))]


def pod(number: int, backend: Backend) -> Object:
    """A slice with one endpoint; Traefik takes an address once, and each has a port of its own beside that."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {
            "name": f"trunkline-nodes-{number}",
            "namespace": "trunkline",
            "labels": {"kubernetes.io/service-name": "trunkline-nodes"},
        },
        "endpoints": [{"addresses": [backend.host], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": backend.port, "protocol": "TCP"}],
    }


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three pods, and a Traefik that has loaded the routes."""
    backends = [await Backend.start(host=f"127.0.0.{number}") for number in (1, 2, 3)]
    placer = CountingPlacer(backends)
    app = web.Application()
    app.router.add_routes(Steering(Settings(), placer, list).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    balancer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    port, ping, api = free_port(), free_port(), free_port()
    log: list[str] = []
    async with listed(of_the_cluster(backends, balancer)) as address:
        static = {
            "entryPoints": {
                "websecure": {"address": f"127.0.0.1:{port}"},
                "ping": {"address": f"127.0.0.1:{ping}"},
                "traefik": {"address": f"127.0.0.1:{api}"},
            },
            "providers": {
                "kubernetesCRD": {
                    "endpoint": address,
                    "token": "none",
                    "namespaces": ["trunkline"],
                    "disableClusterScopeResources": True,
                }
            },
            "ping": {"entryPoint": "ping"},
            "api": {"insecure": True},
            "log": {"level": "INFO", "noColor": True},
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        }
        traefik = await TraefikProcess.start(
            yaml.safe_dump(static), tmp_path, ping_port=ping, ports=[("127.0.0.1", port)], grace_s=0, on_line=log.append
        )
        try:
            await loaded(api, log)
            yield Cluster(backends, placer, port, log)
        finally:
            await traefik.stop()
            await runner.cleanup()
            for backend in backends:
                await backend.stop()


async def loaded(api: int, log: list[str]) -> None:
    """Wait until both routes are there, enabled and without an error."""
    try:
        async with asyncio.timeout(patient(20)), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://127.0.0.1:{api}/api/http/routers") as answer:
                    routers = [each for each in await answer.json() if each["provider"] == "kubernetescrd"]
                if len(routers) == 2 and all(each["status"] == "enabled" for each in routers):
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"no routes; Traefik says:\n{log}") from None


async def test_picks_steer_a_traefik_that_has_its_routes_from_custom_resources(cluster: Cluster) -> None:
    """Every handshake lands where it was placed, exactly evenly; cookies stay, forged ones go; a full fleet refuses."""
    assert not [line for line in cluster.log if " ERR " in line]
    answers = [await cluster.ask(Cookie="session=7; trunkline_lb=0123456789abcdef") for _ in range(30)]
    assert {answer.status for answer in answers} == {101}
    assert Counter(answer.backend for answer in answers) == {backend.port: 10 for backend in cluster.backends}
    picked = {key: urls[-1] for key, urls in cluster.placer.picks.items()}
    for backend in cluster.backends:
        assert {picked[key] for key in backend.keys} == {backend.url}
        for seen in backend.handshakes:
            name, _, rest = seen.headers["cookie"].partition("; ")
            assert name.startswith("trunkline_lb=")
            assert rest == "session=7"
    # A valid pick sets no cookie, so nothing at the client contradicts the next one.
    assert not [answer for answer in answers if "set-cookie" in answer.headers]

    # All players of a match are on one node, under the path that it serves.
    matches = [await cluster.ask("/api/match/game?matchId=m1") for _ in range(4)]
    assert len({answer.backend for answer in matches}) == 1
    (home,) = (each for each in cluster.backends if each.port == matches[0].backend)
    assert home.handshakes[-1].target == "/api/game?matchId=m1"

    # Plain HTTP gets a pick as well, for Traefik by itself would choose among the pods of held colours too.
    asked = len(cluster.placer.asks)
    assert (await cluster.ask("/", ws=False)).status == 200
    assert len(cluster.placer.asks) == asked + 1

    # A pod that is gone costs an attempt, and no client.
    gone = min(cluster.backends, key=lambda each: cluster.placer.counts[each.url])
    gone.refuse_new()
    answers = [await cluster.ask() for _ in range(6)]
    assert {answer.status for answer in answers} == {101}
    assert gone.port not in {answer.backend for answer in answers}
    assert cluster.placer.failures

    cluster.placer.refusal = Refusal(503, "full", "All nodes are full.", 4.0)
    refused = await cluster.ask()
    assert (refused.status, refused.headers["retry-after"]) == (503, "4")
    assert refused.backend == 0
