"""A node and a balancer as the containers of the production overlay start them: arguments, variables and rights.

Ports, the address of NATS and paths are changed, for all run on one machine; the API server is a stand-in with the
rights of the balancer's Role. NATS is the real one, with the configuration of a single server.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.manifests.test_nats_live import SERVER, configuration, servers
from tests.support.balancer.balance_process import Command, until
from tests.support.free_ports import free_port
from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.kubeconfig import write_kubeconfig
from tests.support.kubernetes.slices import endpoint, endpoint_slice
from tests.support.manifests.objects import container, kustomized, pods, variables
from trunkline.balancer.sources.kubernetes.source import RULE
from trunkline.placement.backend import short_id

pytestmark = pytest.mark.skipif(SERVER is None, reason="nats-server is not installed")

TOKEN = "a-token-of-the-operators-own-0123456789"


async def test_a_node_and_a_balancer_start_and_find_each_other(tmp_path: Path) -> None:
    """The pick in the cookie names the pod, the load report its name and machine; the admin port wants the token."""
    (tmp_path / "nats").mkdir()
    (tmp_path / "token").write_text(TOKEN)
    text = kustomized("production")
    templates = dict(pods(text))
    node_port, balancer_port, admin_port = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{node_port}"
    single = {"TRUNKLINE_BUS_REPLICAS": "1"}
    async with (
        servers(configuration("local", tmp_path / "nats"), tmp_path / "nats", 1) as (nats,),
        ApiServer().serving() as api,
    ):
        ports = [{"name": "http", "port": node_port, "protocol": "TCP"}]
        slices = endpoint_slice(
            "n-1", endpoint("127.0.0.1", "trunkline-blue-1"), service="trunkline-nodes", ports=ports
        )
        api.put("endpointslices", "trunkline", slices)
        api.tokens = {"t0ken": "system:serviceaccount:trunkline:trunkline-balancer"}
        api.rules = {(verb, f"{RULE.resources[0]}.{RULE.group}") for verb in RULE.verbs}
        config = write_kubeconfig(tmp_path, api.url, token="t0ken", namespace="trunkline")
        own = {
            **variables(text, templates["trunkline-prepare"], "prepare"), **single,
            "TRUNKLINE_BUS_URL": f"nats://keeper:pkeeper@127.0.0.1:{nats.client}",
        }  # fmt: skip
        prepare = await Command.start(tmp_path, *container(templates["trunkline-prepare"], "prepare")["args"], **own)
        assert await prepare.ended() == 0, prepare.other
        own = {
            **variables(text, templates["trunkline-blue"], "node"), **single,
            "TRUNKLINE_SERVER_PORT": str(node_port), "TRUNKLINE_ADMIN_PORT": str(free_port()),
            "POD_NAME": "trunkline-blue-1", "POD_IP": "127.0.0.1",
            "NODE_NAME": "machine-1", "TRUNKLINE_SERVER_NAME": "trunkline-blue-1", "TRUNKLINE_SERVER_COLOUR": "blue",
            "TRUNKLINE_SERVER_VERSION": "", "TRUNKLINE_BUS_URL": f"nats://node:pnode@127.0.0.1:{nats.client}",
        }  # fmt: skip
        node = await Command.start(tmp_path, *container(templates["trunkline-blue"], "node")["args"], **own)
        own = {
            **variables(text, templates["trunkline-balancer"], "balancer"), **single,
            "TRUNKLINE_BALANCER_PORT": str(balancer_port), "TRUNKLINE_BALANCER_ADMIN_PORT": str(admin_port),
            "TRUNKLINE_ADMIN_TOKEN_FILE": str(tmp_path / "token"),
            "TRUNKLINE_BALANCER_STORE_DIR": str(tmp_path / "store"),
            "TRUNKLINE_KUBERNETES_KUBECONFIG": str(config),
            "TRUNKLINE_BUS_URL": f"nats://balancer:pbalancer@127.0.0.1:{nats.client}",
        }  # fmt: skip
        balancer = await Command.start(tmp_path, *container(templates["trunkline-balancer"], "balancer")["args"], **own)
        try:
            await node.hear(lambda line: line["event"] == "node_up")
            await balancer.ready("balancer_up")
            found = await until(lambda seen: bool(seen["podMetrics"].get(url)), balancer)
            # Announced over NATS and in a slice of the Service, and one backend all the same.
            assert [service["url"] for service in found["services"]] == [url]
            (pod,) = found["podMetrics"][url]
            assert (pod["podName"], pod["podIP"], pod["nodeName"]) == ("trunkline-blue-1", "127.0.0.1", "machine-1")
            async with aiohttp.ClientSession() as session:
                key = {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "X-Forwarded-Uri": "/ws"}
                place = f"http://127.0.0.1:{balancer_port}/place?cookie=trunkline_lb"
                async with session.get(place, headers=key) as answer:
                    assert answer.headers["Cookie"] == f"trunkline_lb={short_id(url)}"
                traffic = f"http://127.0.0.1:{admin_port}/api/traffic"
                async with session.get(traffic) as answer:
                    assert answer.status == 401
                async with session.get(traffic, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
                    assert answer.status == 200
                for port, path in (
                    (node_port, "/healthz"),
                    (node_port, "/ready"),
                    (admin_port, "/healthz"),
                    (admin_port, "/ready"),
                ):
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        assert answer.status == 200, (port, path)
        finally:
            await balancer.stop()
            await node.stop()
