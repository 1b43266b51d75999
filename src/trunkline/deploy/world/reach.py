"""Connects a deploy to its fleet by the settings: the bus, the store that it carries, and the balancers.

Rules:

- A fleet without NATS has no deploys: its nodes keep histories of their own, so every client that moves would lose its
  position, and nobody else would see the deploy's state.
- Without an address the balancer is looked for on its admin port by the settings, with a token that is kept on this
  machine for this user.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from trunkline.bus.base import FleetBus, FleetStore, Retention
from trunkline.bus.open import open_bus
from trunkline.deploy.world.balancers import Balancers
from trunkline.deploy.world.base import FleetRefused
from trunkline.deploy.world.fleet import FleetWorld
from trunkline.errors import SettingsError
from trunkline.net.admin.tokens import token_for, token_for_all
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import Settings

LOCAL: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
"""Where this machine reaches what listens on all addresses."""


class Fleet(NamedTuple):
    """A fleet that is connected; `world` has not begun to hear nodes where only the store was wanted."""

    store: FleetStore
    world: FleetWorld


@contextlib.asynccontextmanager
async def fleet_of(
    settings: Settings, balancers: Sequence[str] = (), *, token: str = "", owner: str = "", world: bool = True
) -> AsyncIterator[Fleet]:
    """The fleet that the settings name, until the end of the `with`.

    Args:
        settings: `bus`, and where balancers are looked for.
        balancers: addresses of their admin ports, e.g. http://10.0.0.5:8081; empty for the one of the settings.
        token: of these ports; by default that of the settings, else the one that is kept on this machine.
        owner: who writes the traffic table, in words for people.
        world: False for a command that reads and writes the store alone, and asks nobody else.

    Raises:
        FleetRefused: the fleet has no NATS.
        SettingsError: an address or a file cannot be used.
        StartError: the file of `admin.token_file` cannot be read.
    """
    bus = open_bus(settings.bus, lambda _channel: Retention(0, 0))
    if not isinstance(bus, FleetBus):
        raise FleetRefused(
            f"bus.url is {settings.bus.url}: nodes share no history, so every client that moves would lose its "
            "position; run the fleet over NATS (bus.url = nats://host:4222)"
        )
    own = (admin_address(settings.balancer),) if world and not balancers else ()
    asked = Balancers(
        (*balancers, *own),
        token or token_for_all(settings.admin),
        settings.balancer.balancer_metric_path,
        token_for(settings.admin, "read", "operate"),
    )
    fleet = FleetWorld(asked, bus.fleet_link, changed_by=owner, tls=_nodes_tls(settings.balancer))
    try:
        await bus.start(lambda _connected: None)
        if world:
            await fleet.start()
        yield Fleet(bus.fleet_store, fleet)
    finally:
        await fleet.close()
        await bus.close()


def admin_address(balancer: BalancerSettings) -> str:
    """Where the settings have the balancer's admin port; raises SettingsError for one that has none."""
    port = balancer.port + 1 if balancer.admin_port is None else balancer.admin_port
    if port == 0:
        allowed = "it is 0, so the balancer has no admin port: name the one to ask"
        raise SettingsError("balancer.admin_port", value="0", allowed=allowed)
    host = LOCAL.get(balancer.admin_host, balancer.admin_host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _nodes_tls(balancer: BalancerSettings) -> ssl.SSLContext:
    """How pages of nodes that serve HTTPS are asked for: as the balancer does."""
    try:
        tls = ssl.create_default_context(cafile=balancer.tls_ca_file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            "balancer.tls_ca_file", value=str(balancer.tls_ca_file), allowed=f"a PEM file ({why})"
        ) from None
    if not balancer.tls_verify:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls
