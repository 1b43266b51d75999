"""Foreign pods behind a balancer that finds them by the EndpointSlices of their Service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.balancer.balance_process import Command, ForeignBackend, close_all, connect_many, until
from tests.support.free_ports import free_port
from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.kubeconfig import write_kubeconfig
from tests.support.kubernetes.slices import endpoint, endpoint_slice

pytestmark = pytest.mark.process


async def test_pods_are_named_share_connections_and_drain(tmp_path: Path) -> None:
    """They report a number alone; the rest is that of their endpoints. One that ends gets no more."""
    port = free_port()
    pods = {f"ws-{number}": ForeignBackend(f"127.0.0.{number}", port) for number in (2, 3)}
    ports = [{"name": "ws", "port": port}]
    ends = {name: endpoint(pod.host, name, machine=f"m-{name}") for name, pod in pods.items()}
    for pod in pods.values():
        await pod.start()
    async with ApiServer().serving() as api:
        api.put("endpointslices", "live", endpoint_slice("ws-a", *ends.values(), ports=ports))
        balancer = await Command.start(
            tmp_path, "balance", "--listen", "127.0.0.1:0", "--cache-ttl", "50ms",
            KUBECONFIG=str(write_kubeconfig(tmp_path, api.url)), TRUNKLINE_BALANCER_KUBERNETES="ws:ws",
        )  # fmt: skip
        try:
            await balancer.ready("balancer_up")
            seen = await until(lambda seen: len(seen["podMetrics"]) == 2, balancer)
            named = {
                url: [(pod["podName"], pod["podIP"], pod["nodeName"]) for pod in each]
                for url, each in seen["podMetrics"].items()
            }
            assert named == {pod.url: [(name, pod.host, f"m-{name}")] for name, pod in pods.items()}
            clients = await connect_many(balancer.port, 10)
            assert [len(pod.open) for pod in pods.values()] == [5, 5]
            ends["ws-2"] = endpoint("127.0.0.2", "ws-2", ready=False, serving=True, terminating=True)
            api.put("endpointslices", "live", endpoint_slice("ws-a", *ends.values(), ports=ports))
            await until(lambda seen: [each["state"] for each in seen["services"]] == ["draining", "up"], balancer)
            clients += await connect_many(balancer.port, 4)
            assert len(pods["ws-3"].open) >= 9
            await close_all(clients)
        finally:
            await balancer.stop()
            for pod in pods.values():
                await pod.stop()


async def test_without_an_api_server_it_does_not_start(tmp_path: Path) -> None:
    """And says what to set."""
    command = await Command.start(tmp_path, "balance", HOME=str(tmp_path), TRUNKLINE_BALANCER_KUBERNETES="ws:ws")
    assert await command.process.wait() == 2
    await command.stop()
    assert "no Kubernetes API server is known. Set kubernetes.kubeconfig or KUBECONFIG" in " ".join(command.other)
