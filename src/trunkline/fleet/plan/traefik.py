"""The Traefik of a fleet on this machine: its settings follow the plan, its files are written before it starts.

Rule: Traefik's files and the balancer that it asks are made from the same settings, those of the fleet with the plan's
variables laid over them: what one calls `web` the other must not call `websecure`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trunkline.fleet.plan.layout import FleetPlan, traefik_environment
from trunkline.settings.load import load
from trunkline.traefik.process import find_binary
from trunkline.traefik.render.dynamic import file_dynamic
from trunkline.traefik.render.static import dynamic_text, static_text


def prepare(plan: FleetPlan, environ: Mapping[str, str]) -> FleetPlan:
    """Return the plan with Traefik's command line and its files; without Traefik, the plan as it is.

    The files are not written yet: until the lock on the data directory is held they may be those of another fleet.
    Whatever [traefik] of the fleet's environment sets apart from addresses is kept.

    Raises:
        StartError: Traefik is not installed.
        SettingsError: the settings cannot be rendered.
    """
    if plan.traefik is None:
        return plan
    program = find_binary()
    settings = load(plan.config_file, {**environ, **traefik_environment(plan)}, {}).settings
    # There is no TLS to show a certificate on.
    section = msgspec.structs.replace(settings.traefik, cert_file=None, key_file=None, acme_email="")
    settings = msgspec.structs.replace(settings, traefik=section)
    static_file, dynamic_file = (plan.data_dir.absolute() / "traefik" / name for name in ("traefik.yml", "dynamic.yml"))
    files = (
        (dynamic_file, dynamic_text(file_dynamic(settings))),
        (static_file, static_text(settings, dynamic_file)),
    )
    command = (str(program), f"--configFile={static_file}")
    return msgspec.structs.replace(plan, traefik=msgspec.structs.replace(plan.traefik, command=command, files=files))
