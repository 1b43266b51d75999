"""Which runtime a plan gets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.kubernetes.kubeconfig import write_kubeconfig
from trunkline.cli.deploy.fleet import RUNTIMES, runtime_of
from trunkline.deploy.machine.plan import Plan
from trunkline.deploy.runtimes.base import What
from trunkline.errors import SettingsError, StartError
from trunkline.settings.kubernetes import KubernetesSettings
from trunkline.settings.sections import Settings


def plan(runtime: str) -> Plan:
    return Plan("d1", "blue", "green", 2, 2, runtime=runtime)


async def test_a_cluster_is_that_of_the_settings(tmp_path: Path) -> None:
    """Kubeconfig, context and the names of Deployments; nothing is asked before there is something to do."""
    file = write_kubeconfig(tmp_path, "http://127.0.0.1:1")
    settings = msgspec.structs.replace(Settings(), kubernetes=KubernetesSettings(kubeconfig=file, context="test"))
    runtime = runtime_of(plan("kubernetes"), settings)
    try:
        assert (runtime.name, runtime.starts) == ("kubernetes", True)
        assert await runtime.check("green", What(image="A B")) == (
            "--image: 'A B' is no name of an image; write it as registry.example.org/team/app:1.4.2"
        )
    finally:
        await runtime.close()


def test_without_an_api_server_there_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StartError, match="no Kubernetes API server is known"):
        runtime_of(plan("kubernetes"), Settings())


async def test_a_daemon_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the docker command finds it; what that could use and this cannot is refused before anything is asked."""
    pytest.importorskip("aiodocker", reason="the runtime needs the package aiodocker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    runtime = runtime_of(plan("docker"), Settings())
    assert (runtime.name, runtime.starts) == ("docker", True)
    assert (await runtime.check("green", What())).startswith(
        "the Docker daemon at unix:///nowhere/docker.sock (DOCKER_HOST) cannot be reached: No such file"
    )
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@host")
    with pytest.raises(SettingsError, match="DOCKER_HOST"):
        runtime_of(plan("docker"), Settings())


def test_another_runtime_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match=f"there are {', '.join(RUNTIMES)}"):
        runtime_of(plan("podman"), Settings())
