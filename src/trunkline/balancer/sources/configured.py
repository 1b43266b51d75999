"""The sources of backends that are set, besides their list; a source and its library are loaded only then."""

from __future__ import annotations

import os
from collections.abc import Callable

from trunkline.balancer.sources.base import Source
from trunkline.docker.endpoint import Endpoint, files_in, named
from trunkline.docker.package import require
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import Settings


def configured(whole: Settings, is_well: Callable[[str], bool]) -> dict[str, Source]:
    """Each source but the list, by its kind; `is_well` says whether the checks of a backend are good, by its URL.

    Raises:
        SettingsError: what a source cannot understand.
        StartError: a package or an API server that it needs is missing.
    """
    settings = whole.balancer
    found: dict[str, Source] = {}
    if settings.backends_file is not None:
        from trunkline.balancer.sources.file import FileSource

        found["file"] = FileSource(settings.backends_file)
    if settings.docker:
        require("balancer.docker")
        from trunkline.balancer.sources.docker.containers import DockerSource

        found["docker"] = DockerSource(_daemon(settings.docker, "balancer.docker", settings), settings.docker_network)
    if settings.swarm:
        require("balancer.swarm")
        from trunkline.balancer.sources.docker.swarm import SwarmSource

        found["swarm"] = SwarmSource(_daemon(settings.swarm, "balancer.swarm", settings), settings.docker_network)
    if settings.kubernetes:
        from trunkline.balancer.sources.kubernetes.source import KubernetesSource
        from trunkline.kubernetes.kubeconfig import find_access

        cluster = whole.kubernetes
        access = find_access(cluster.kubeconfig, cluster.context, os.environ)
        found["kubernetes"] = KubernetesSource(settings.kubernetes, access, cluster.namespace)
    if settings.dns:
        from trunkline.balancer.sources.dns import DnsSource

        found["dns"] = DnsSource(settings.dns, settings.dns_interval_ms, is_well)
    return found


def _daemon(url: str, key: str, settings: BalancerSettings) -> Endpoint:
    folder = settings.docker_cert_dir
    tls = (
        files_in(folder, key="balancer.docker_cert_dir") if folder is not None and not url.startswith("unix:") else None
    )
    return named(url, key=key, environ=os.environ, tls=tls)
