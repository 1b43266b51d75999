"""The names under which the ports of a balancer are served; see `net/hosts.py`."""

from __future__ import annotations

import socket

from trunkline.net.addresses import is_address
from trunkline.net.hosts import Hosts
from trunkline.settings.balancer import BalancerSettings


def hosts_of(settings: BalancerSettings, *more: str) -> Hosts:
    """For one port: the names that the operator gave in any setting, and the machine's."""
    return Hosts("balancer.hosts", "balancer.trusted_proxies", names_of(settings, *more), socket.gethostname())


def names_of(settings: BalancerSettings, *more: str) -> tuple[str, ...]:
    """The names that the operator gave in any setting."""
    routes = (route.host for route in settings.routes if route.host != "*")
    listening = "" if is_address(settings.host) else settings.host
    return (*settings.hosts, listening, *routes, *more)
