"""`helm upgrade` leaves image, version and replicas of a colour as a deploy has set them.

The real helm asks a stand-in of an API server, which knows the kinds of the chart and has one of its objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.manifests.test_helm import CHART, chart
from tests.support.manifests.listed_cluster import answering
from tests.support.manifests.objects import Object, container, objects
from tests.support.manifests.programs import program
from tests.support.patience import patient


@contextlib.asynccontextmanager
async def api_server(live: Object) -> AsyncIterator[str]:
    """Discovery of every kind of the chart, and one object; its address."""
    kinds: dict[str, dict[str, Object]] = {}
    for each in chart().values():
        kind = each["kind"]
        plural = kind.lower().replace("policy", "policie") + "s"
        own = {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list", "create"]}
        kinds.setdefault(each["apiVersion"], {})[plural] = own
    groups = [
        {"name": version.partition("/")[0], "versions": [known], "preferredVersion": known}
        for version in kinds
        if "/" in version
        for known in [{"groupVersion": version, "version": version.partition("/")[2]}]
    ]

    async def serve(request: web.Request) -> web.Response:
        path = request.path.strip("/")
        version = path.removeprefix("apis/").removeprefix("api/")
        if path == "version":
            return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        if path == "api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        if version in kinds:
            resources = {"kind": "APIResourceList", "groupVersion": version, "resources": list(kinds[version].values())}
            return web.json_response(resources)
        if path == f"apis/apps/v1/namespaces/trunkline/deployments/{live['metadata']['name']}":
            return web.json_response(live)
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return web.json_response(missing, status=404)

    async with answering(serve) as address:
        yield address


async def upgraded(live: Object, home: Path, *options: str) -> Object:
    """Pod template and replicas of green as an upgrade would make them over `live`."""
    async with api_server(live) as address:
        process = await asyncio.create_subprocess_exec(
            program("helm"), "template", "live", str(CHART), "--namespace", "trunkline", "--dry-run=server",
            "--disable-openapi-validation", "--kube-apiserver", address, *options,
            env={"HOME": str(home), "KUBECONFIG": "/dev/null"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(patient(30)):
            made, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    spec: Object = objects(made.decode())["Deployment", "trunkline-green"]["spec"]
    return spec


@pytest.mark.parametrize("keeps", [True, False])
async def test_an_upgrade_does_not_undo_a_deploy(keeps: bool, tmp_path: Path) -> None:
    live = copy.deepcopy(chart()["Deployment", "trunkline-green"])
    live["metadata"]["namespace"] = "trunkline"
    live["metadata"]["annotations"] = {
        "meta.helm.sh/release-name": "live",
        "meta.helm.sh/release-namespace": "trunkline",
    }
    live["spec"]["replicas"] = 7
    template = live["spec"]["template"]
    template["metadata"]["labels"]["app.kubernetes.io/version"] = "2.1"
    container(template, "node")["image"] = "registry.example.org/trunkline:2.1"
    spec = await upgraded(live, tmp_path, "--set", f"nodes.keepDeployed={'true' if keeps else 'false'}")
    image = container(spec["template"], "node")["image"]
    version = spec["template"]["metadata"]["labels"].get("app.kubernetes.io/version")
    if keeps:
        assert (spec["replicas"], image, version) == (7, "registry.example.org/trunkline:2.1", "2.1")
    else:
        assert (spec["replicas"], image, version) == (0, "registry.example.org/trunkline:0.1.0", None)
