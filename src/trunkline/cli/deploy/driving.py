"""Drives a deploy from a command: asks before it begins, shows it, heeds signals, and says how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from trunkline.cli.deploy import outcome
from trunkline.errors import SettingsError

if TYPE_CHECKING:
    from trunkline.cli.deploy.fleet import Reached
    from trunkline.deploy.parts import Outcome, Parts
    from trunkline.deploy.verdict.verdict import DeployVerdict
    from trunkline.load.scenario.comparison import Threshold
    from trunkline.settings.load import Loaded


class Target(NamedTuple):
    """The fleet that a command is for, as its options name it; `local` for one that `trunkline up` has to run."""

    loaded: Loaded
    balancers: tuple[str, ...]
    edge: str | None
    token_file: Path | None
    ca: Path | None
    insecure: bool
    local: bool

    async def find(self) -> Reached:
        """Where it is; raises RuntimeFailed."""
        from trunkline.cli.deploy import fleet

        return await fleet.find(self.loaded, self.balancers, self.edge, local=self.local)


def ask(target: Target, colour: str, over: str) -> None:
    """Ask the person at the terminal whether to begin; raises typer.Exit when not, or when nothing can be begun.

    The fleet is looked at before and let go: a question keeps a loop, and whatever lives on it, waiting without end.
    """
    from trunkline.cli.deploy import fleet
    from trunkline.deploy.lease.lease import LeaseHeld
    from trunkline.deploy.run import read_status
    from trunkline.protocol.deploys import OVER

    clients = 0

    async def look() -> int:
        nonlocal clients
        async with fleet.connected(await target.find()) as connected:
            there = await read_status(connected.store)
            if there is not None and there.state not in OVER:
                raise LeaseHeld(there)
            view = await connected.world.look()
        clients = sum(node.connections for node in view.nodes if node.colour != colour)
        return 0

    if code := outcome.code_of(look):
        raise typer.Exit(code)
    try:
        agreed = typer.confirm(f"Move {clients:,} clients to {colour} within {over} or more?", err=True)
    except typer.Abort:
        raise typer.Exit(outcome.INTERRUPTED) from None
    if not agreed:
        raise typer.Exit(outcome.refused("the answer was no"))


def drive(
    target: Target,
    order: Callable[[Parts], Coroutine[Any, Any, Outcome]],
    own: tuple[Threshold, ...],
    deliver: Callable[[DeployVerdict], None],
    *,
    witnesses: int = 0,
) -> None:
    """Carry it out under the live view, and exit with its code; with `witnesses` there has to be an edge for them."""
    from trunkline.cli.deploy import fleet

    async def main() -> int:
        reached = await target.find()
        edge = fleet.edge_of(reached.edge, target.token_file, target.ca, insecure=target.insecure)
        if witnesses and not edge.url:
            raise SettingsError("--edge", allowed="name where clients connect, or go without witnesses (--witnesses 0)")
        async with fleet.connected(reached) as connected:
            parts = fleet.parts_of(connected, target.loaded, edge)
            parts.thresholds = own
            ended = await _shown(order, parts, reached)
        if ended is None:
            outcome.say("ended at once; in 15 s anybody may go on with: trunkline deploy resume")
            return outcome.INTERRUPTED
        return outcome.tell(ended, deliver)

    outcome.run(main)


async def _shown(
    order: Callable[[Parts], Coroutine[Any, Any, Outcome]], parts: Parts, reached: Reached
) -> Outcome | None:
    """Do it under the live view; the first signal gives it up in order, the second at once, which returns None."""
    import sys

    from trunkline.cli.deploy.options import log_to
    from trunkline.deploy.view.alerts import follow_alerts
    from trunkline.deploy.view.live import make_live
    from trunkline.process import lifecycle
    from trunkline.process.bounds import end_tasks

    signals = lifecycle.Signals()
    signals.first.add_done_callback(lambda _: parts.stop.set())
    live = make_live()
    parts.on_progress, parts.on_wait = live.progress, live.note
    if live.log_lines is not None:
        log_to(reached.loaded, live.log_lines)
    driving = asyncio.ensure_future(order(parts))
    beside = asyncio.ensure_future(follow_alerts(reached.alertmanagers, live.alerts))
    try:
        either: set[asyncio.Future[Any]] = {driving, signals.second}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        live.close()
        if live.log_lines is not None:
            log_to(reached.loaded, sys.stderr)
        await end_tasks([beside])
    if not driving.done():
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        return None
    return driving.result()
