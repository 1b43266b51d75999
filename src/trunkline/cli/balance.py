"""`trunkline balance`: the connection balancer, as a relay, as relays that share one state, or steering a Traefik."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.settings import ConfigFile, loaded
from trunkline.errors import SettingsError

if TYPE_CHECKING:
    from trunkline.balancer.service import RelayService
    from trunkline.settings.sections import Settings
    from trunkline.traefik.steer.service import SteeringService


def balance(
    listen: Annotated[
        str | None, typer.Option(help="Address and port to listen on, by default 127.0.0.1:8080; port 0: any free one.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="URL of a backend, such as http://10.0.0.1:3001; can be given again."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="relay: carry the bytes; steer: answer Traefik's questions.")] = None,
    policy: Annotated[str | None, typer.Option(help="least_connections, affinity, p2c, round_robin or random.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port and one truth.")] = None,
    bus: Annotated[
        str | None, typer.Option(help="nats://… where nodes announce themselves and balancers share their picks.")
    ] = None,
    cache_ttl: Annotated[str | None, typer.Option(help="Time between load reports, such as 30s; 0: each pick.")] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the port from the balancer that runs on it, which then ends.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only log what rebalancing would move.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Spread WebSocket connections evenly over backends until SIGTERM or Ctrl-C; a second one ends it at once."""
    from trunkline.logs import configure as log_setup
    from trunkline.process import lifecycle

    host, port = _place(listen)
    flags = {
        "balancer.host": host, "balancer.port": port, "balancer.mode": mode, "balancer.policy": policy,
        "balancer.workers": workers, "balancer.cache_ttl_ms": cache_ttl, "bus.url": bus,
        "balancer.backends": [{"url": url} for url in backend] if backend else None,
        "balancer.rebalance": "dry-run" if dry_run else None,
    }  # fmt: skip
    found = loaded(config_file, flags)
    log_setup.configure(found.settings.log, service="trunkline-balancer")

    def again() -> Settings:
        # A file that was read must be there again: without it all its settings would be gone.
        return loaded(found.file or config_file, flags).settings

    raise typer.Exit(lifecycle.run(lambda: run_balancer(found.settings, again, take_over)))


async def run_balancer(settings: Settings, again: Callable[[], Settings], take_over: bool = False) -> int:
    """Run a balancer in this process until a signal, or another process that takes its place, stops it.

    `again` reads its settings again.
    """
    from trunkline.logs.configure import with_level
    from trunkline.process import lifecycle
    from trunkline.settings.reload import Reload
    from trunkline.settings.reloaded import BALANCER, STEERING

    signals = lifecycle.Signals(reloads=True)
    service: RelayService | SteeringService
    if settings.balancer.mode == "steer":
        from trunkline.traefik.steer.service import SteeringService

        service = SteeringService(settings, take_over=take_over, on_taken=signals.stop)
    else:
        from trunkline.balancer.service import RelayService

        service = RelayService(settings, take_over=take_over, on_taken=signals.stop)
    if await lifecycle.started(signals, service.start(), heeds_first=take_over):
        lifecycle.spare_collector()
    sections = STEERING if settings.balancer.mode == "steer" else BALANCER
    reload = Reload(settings, again, sections, with_level(service.prepare), service.balancer.reloads)
    await lifecycle.serve_until_stopped(signals, service.stop, reload)
    return 0


def _place(listen: str | None) -> tuple[str | None, str | None]:
    if listen is None:
        return None, None
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or not host or (":" in host and not host.startswith("[")):
        raise SettingsError(
            "--listen", value=listen, allowed="allowed: address and port, such as 127.0.0.1:8080 or [::1]:8080"
        )
    return host.strip("[]"), port
