"""The commands that read what a fleet has stored of its deploys, and change nothing: status, history, verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.deploy.options import AsJson, Bus, DataDir, Html, Junit, Thresholds, settings_of, thresholds_of
from trunkline.cli.deploy.outcome import FAILED, Deliver, run, write_out
from trunkline.cli.settings import ConfigFile
from trunkline.errors import SettingsError

if TYPE_CHECKING:
    from trunkline.bus.base import FleetStore

Id = Annotated[str, typer.Argument(metavar="[ID]", help="Of the deploy; default: the newest.", show_default=False)]


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the deploy is over.")] = False,
    bus: Bus = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show the present or last deploy: its state, who drives it, and since when."""
    _require()
    from trunkline.deploy.view.status import show_status

    async def show(store: FleetStore) -> int:
        await show_status(store, sys.stdout, watch=watch, as_json=as_json)
        return 0

    _with_store(show, bus, data_dir, config_file)


def history(bus: Bus = None, data_dir: DataDir = None, as_json: AsJson = False, config_file: ConfigFile = None) -> None:
    """List the deploys whose verdicts are kept, newest first."""
    _require()
    import msgspec

    from trunkline.deploy.verdict import kept
    from trunkline.deploy.verdict.text import history_text

    async def show(store: FleetStore) -> int:
        found = await kept.history(store)
        write_out(msgspec.json.encode(found).decode() + "\n" if as_json else history_text(found))
        return 0

    _with_store(show, bus, data_dir, config_file)


def verdict(
    id: Id = "",
    threshold: Thresholds = None,
    html: Html = None,
    junit: Junit = None,
    bus: Bus = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show the verdict of a deploy; exit 0 when it passed, else 1.

    With own thresholds it is judged by these; what is kept does not change.
    """
    _require()
    from trunkline.deploy.verdict import kept
    from trunkline.deploy.verdict.verdict import make_verdict

    own = thresholds_of(threshold)
    deliver = Deliver(html, junit, as_json)

    async def show(store: FleetStore) -> int:
        found = await kept.read(store, id)
        if found is None:
            raise (
                SettingsError("ID", value=id, allowed="no such verdict is kept; see trunkline deploy history")
                if id
                else SettingsError("ID", allowed="no verdict is kept in this fleet")
            )
        if own:
            found = make_verdict(found.facts, own)
        deliver(found)
        return 0 if found.passed else FAILED

    _with_store(show, bus, data_dir, config_file)


def _with_store(
    show: Callable[[FleetStore], Coroutine[Any, Any, int]], bus: str | None, data_dir: Path | None, config: Path | None
) -> None:
    from trunkline.cli.deploy import fleet

    found = settings_of(config, bus, data_dir)

    async def main() -> int:
        reached = await fleet.find(found, (), None, local=False)
        async with fleet.connected(reached, world=False) as connected:
            return await show(connected.store)

    run(main)


def _require() -> None:
    from trunkline.cli.load import require

    require()
