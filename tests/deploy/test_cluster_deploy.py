"""Deploys in a cluster: real nodes as pods, a real balancer and NATS, and an API server of the tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.support.balancer.balance_process import overview
from tests.support.kubernetes.fleet import NEW, cluster_fleet
from trunkline.deploy.run import run_deploy
from trunkline.deploy.runtimes.base import What


@pytest.mark.process
async def test_a_cluster_gets_the_new_image_and_a_broken_one_is_undone(tmp_path: Path) -> None:
    """First an image that nobody has: rolled back with the kubelet's reason, blue serves on. Then one that works."""
    async with cluster_fleet(tmp_path) as fleet:
        assert fleet.real is not None
        options = partial(fleet.real.options, runtime="kubernetes", nodes=2, witnesses=5, over_s=1.0, verify_s=1.0)
        async with fleet.parts() as parts:
            outcome = await run_deploy(options(what=What(image="shop:typo", version="2")), parts)
        assert (outcome.state, outcome.exit_code) == ("rolled_back", 3)
        why = 'cannot start: ImagePullBackOff: Back-off pulling image "shop:typo": not found'
        assert why in outcome.verdict.facts.why
        assert len(fleet.cluster.pods("blue")) == 2
        assert fleet.cluster.pods("green") == []
        async with fleet.parts() as parts:
            outcome = await run_deploy(options(what=What(image=NEW, version="2")), parts)
        assert (outcome.state, outcome.exit_code) == ("done", 0), outcome.verdict
        assert outcome.verdict.facts.witnesses is not None
        assert outcome.verdict.facts.witnesses.lost == 0
        assert fleet.cluster.pods("blue") == []
        pods = {pod["metadata"]["name"] for pod in fleet.cluster.pods("green")}
        seen = await overview(fleet.real.balancer)
        assert {service["name"] for service in seen["services"]} == pods
        assert {service["version"] for service in seen["services"]} == {"2"}
        assert fleet.cluster.get("trunkline-blue")["spec"]["replicas"] == 0
