"""`trunkline bus prepare`: the streams and the bucket of a fleet, made by a user of NATS that may make them."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.settings import ConfigFile, loaded
from trunkline.errors import BusError, SettingsError, StartError

app = typer.Typer(help="The bus of a fleet.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `prepare` a command of its own."""


@app.command()
def prepare(
    application: Annotated[
        str | None, typer.Argument(metavar="[APP]", help="module:app, whose channel rules count; default: server.app.")
    ] = None,
    config_file: ConfigFile = None,
) -> None:
    """Make the streams and the bucket in NATS that nodes, balancers and deploys use, or change their limits.

    Only needed where their users of NATS may not, as in deploy/nats. Run it before the first start, and after a change
    of channel rules or of bus settings, with the same settings as the nodes and another bus.url.
    """
    import asyncio

    from trunkline.bus.open import open_bus
    from trunkline.server.app.load_app import load_app
    from trunkline.server.channels.rules import RuleSet

    settings = loaded(config_file, {"server.app": application}).settings
    rules = RuleSet.of(settings, load_app(settings.server.app).rules)
    bus = open_bus(settings.bus, rules.retention, rules.retentions)

    async def make() -> None:
        from trunkline.bus.nats.bus import NatsBus

        if not isinstance(bus, NatsBus):
            allowed = "there is nothing to prepare but in NATS: nats://user:password@host:4222"
            raise SettingsError("bus.url", value=settings.bus.url, allowed=allowed)
        try:
            await bus.start(lambda _connected: None)
            await bus.prepare()
        except BusError as error:
            raise StartError(str(error), "Check bus.url, and the rights of its user.") from None
        finally:
            await bus.close()

    asyncio.run(make())
    typer.echo(f"the streams of {len(rules.retentions)} retentions and the bucket {settings.bus.prefix} are there")
