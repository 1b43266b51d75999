"""The API server of the tests, used by the real kubectl: what it lists, watches and changes is what that expects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.balancer.authority import Authority
from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.kubeconfig import write_kubeconfig
from tests.support.kubernetes.slices import endpoint, endpoint_slice
from tests.support.manifests.programs import program
from tests.support.patience import patient

pytestmark = pytest.mark.process


class Kubectl:
    """Runs kubectl against one server."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self._folder = folder
        self._kubeconfig = write_kubeconfig(folder, api.url, token="t0ken", authority="ca.pem")

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        environ = {"KUBECONFIG": str(self._kubeconfig), "HOME": str(self._folder), "PATH": "/usr/bin:/bin"}
        return await asyncio.create_subprocess_exec(
            program("kubectl"),
            *arguments,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def __call__(self, *arguments: str) -> str:
        """What it prints."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(patient(20)):
                printed, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return printed.decode().strip()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """Over TLS: kubectl sends no token without."""
    authority = Authority(tmp_path)
    authority.sign(tmp_path / "server.pem", "127.0.0.1")
    async with ApiServer().serving(authority.server(tmp_path / "server.pem")) as server:
        server.tokens = {"t0ken": "system:serviceaccount:live:deploy"}
        yield server


async def test_kubectl_rolls_out_an_image(api: ApiServer, tmp_path: Path) -> None:
    """It lists, patches as a strategic merge, waits for the rollout by a watch, and reads a log."""
    cluster, kubectl = Cluster(api, "shop:1", "shop:2"), Kubectl(api, tmp_path)
    try:
        cluster.deployment("trunkline-green", "green", 2, "shop:1")
        assert await kubectl("get", "deployments", "-o", "name") == "deployment.apps/trunkline-green"
        printed = await kubectl("set", "image", "deployment/trunkline-green", "node=shop:2", "--dry-run=server")
        assert printed == "deployment.apps/trunkline-green image updated (server dry run)"
        assert cluster.get("trunkline-green")["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:1"
        printed = await kubectl("set", "image", "deployment/trunkline-green", "node=shop:2")
        assert printed == "deployment.apps/trunkline-green image updated"
        printed = await kubectl("rollout", "status", "deployment/trunkline-green", "--timeout=20s")
        assert printed.endswith('deployment "trunkline-green" successfully rolled out')
        container = cluster.get("trunkline-green")["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "shop:2"
        assert container["env"][0]["name"] == "TRUNKLINE_SERVER_VERSION"
        pod = cluster.pods("green")[0]["metadata"]["name"]
        api.logs[pod] = "one\ntwo\n"
        assert await kubectl("logs", pod, "--tail=1") == "two"
    finally:
        await cluster.close()


async def test_kubectl_watches_endpoint_slices(api: ApiServer, tmp_path: Path) -> None:
    api.put("endpointslices", "live", endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1")))
    watching = await Kubectl(api, tmp_path).start("get", "endpointslices", "-w", "-o", "jsonpath={.metadata.name}\n")
    assert watching.stdout is not None
    try:
        async with asyncio.timeout(patient(20)):
            assert await watching.stdout.readline() == b"ws-a\n"
            await api.until_watched(within_s=20)
            api.put("endpointslices", "live", endpoint_slice("ws-b"))
            assert await watching.stdout.readline() == b"ws-b\n"
    finally:
        watching.kill()
        await watching.wait()


async def test_kubectl_names_what_rbac_forbids_in_the_same_words(api: ApiServer, tmp_path: Path) -> None:
    """The user and the rule that we read from this message stand in it."""
    api.rules = set()
    assert await Kubectl(api, tmp_path)("get", "pods") == (
        'Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:live:deploy" cannot list '
        'resource "pods" in API group "" in the namespace "live"'
    )
