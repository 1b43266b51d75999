"""The Traefik of a fleet on this machine: its settings follow the plan, its files are written before it starts."""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.cli.fleet_plan import FleetPlan, TraefikPlan
from trunkline.config import Settings
from trunkline.traefik.process import find_binary, write_static
from trunkline.traefik.render_static import static, to_yaml


FETCH_EVERY_MS: Final = 200


def prepare(plan: FleetPlan, settings: Settings) -> FleetPlan:
    """Write Traefik's configuration and return the plan with its command line; without Traefik, the plan as it is.

    Args:
        plan: the fleet.
        settings: of the fleet; whatever [traefik] says beyond places is kept.

    Raises:
        StartError: Traefik is not installed, or the file cannot be written.
        SettingsError: the settings cannot be rendered.
    """
    if plan.traefik is None:
        return plan
    program = find_binary()
    directory = plan.data_dir / "traefik"
    text = to_yaml(static(placed(settings, plan, plan.traefik), directory / "dynamic.yml"))
    file = write_static(directory, text)
    command = (str(program), f"--configFile={file}")
    return msgspec.structs.replace(plan, traefik=msgspec.structs.replace(plan.traefik, command=command))


def placed(settings: Settings, plan: FleetPlan, traefik: TraefikPlan) -> Settings:
    """The settings with the places that the plan gives to Traefik and to the balancer that it asks."""
    section = msgspec.structs.replace(
        settings.traefik,
        steer=True,
        host=traefik.host,
        http_port=traefik.port,
        https_port=0,
        fail_open_port=traefik.fail_open_port,
        ping_port=traefik.ping_port,
        balancer_url=plan.balancer.page_url,
        # A fleet for trying out is small; its changes should show at once.
        poll_interval_ms=min(settings.traefik.poll_interval_ms, FETCH_EVERY_MS),
    )
    return msgspec.structs.replace(settings, traefik=section)
