"""The sources of backends that are set."""

from __future__ import annotations

from trunkline.balancer.sources.base import Source
from trunkline.balancer.sources.dns import DnsSource
from trunkline.balancer.sources.docker import DockerSource
from trunkline.balancer.sources.file import FileSource
from trunkline.balancer.sources.fixed import ListSource
from trunkline.settings.balancer import BalancerSettings


def configured(settings: BalancerSettings) -> dict[str, Source]:
    """Each source by its kind.

    Raises:
        SettingsError: what a source cannot understand.
        StartError: a package that it needs is missing.
    """
    found: dict[str, Source] = {}
    if settings.backends:
        found["list"] = ListSource(settings.backends)
    if settings.backends_file is not None:
        found["file"] = FileSource(settings.backends_file)
    if settings.docker:
        found["docker"] = DockerSource(settings.docker, settings.docker_network)
    if settings.dns:
        found["dns"] = DnsSource(settings.dns, settings.dns_interval_ms)
    return found
