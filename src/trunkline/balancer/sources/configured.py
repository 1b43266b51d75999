"""The sources of backends that are set; a source and its library are loaded only then."""

from __future__ import annotations

from collections.abc import Callable

from trunkline.balancer.sources.base import Source
from trunkline.balancer.sources.fixed import ListSource
from trunkline.settings.balancer import BalancerSettings


def configured(settings: BalancerSettings, is_well: Callable[[str], bool]) -> dict[str, Source]:
    """Each source by its kind; `is_well` says whether the health checks of a backend are good, by its URL.

    Raises:
        SettingsError: what a source cannot understand.
        StartError: a package that it needs is missing.
    """
    found: dict[str, Source] = {}
    if settings.backends:
        found["list"] = ListSource(settings.backends)
    if settings.backends_file is not None:
        from trunkline.balancer.sources.file import FileSource

        found["file"] = FileSource(settings.backends_file)
    if settings.docker:
        from trunkline.balancer.sources.docker import DockerSource

        found["docker"] = DockerSource(settings.docker, settings.docker_network)
    if settings.dns:
        from trunkline.balancer.sources.dns import DnsSource

        found["dns"] = DnsSource(settings.dns, settings.dns_interval_ms, is_well)
    return found
