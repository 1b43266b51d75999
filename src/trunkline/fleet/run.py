"""Runs a fleet in child processes of this one, from its start to the second signal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from trunkline.errors import SettingsError
from trunkline.fleet.plan.layout import FleetPlan
from trunkline.fleet.status import Event, status_text
from trunkline.fleet.supervisor import Fleet
from trunkline.fleet.view.output import View
from trunkline.process import lifecycle
from trunkline.process.bounds import end_tasks


async def run_fleet(plan: FleetPlan, view: View, read: Callable[[], object]) -> int:
    """Run a fleet until a signal stops it; returns 1 when it did not drain. Raises StartError.

    `read` reads the settings again, to be tried before the parts do; it raises SettingsError.
    """
    signals = lifecycle.Signals(reloads=True)

    def on_event(event: Event) -> None:
        view.event(event)
        show_status()

    def show_status() -> None:
        others = [*(part.status for part in fleet.edge), fleet.nats.status]
        view.status(lambda: status_text(fleet.statuses, others, fleet.draining))

    async def reload() -> None:
        try:
            await asyncio.to_thread(read)
        except SettingsError as error:
            view.event(Event("note", "", f"settings are not reloaded, every part keeps what it has: {error}"))
        else:
            fleet.reload()

    fleet = Fleet(plan, os.environ, on_event, view.ready, show_status)
    running = asyncio.ensure_future(fleet.run())
    reloading = asyncio.ensure_future(lifecycle.reload_when_asked(signals, reload))
    await asyncio.wait({running, signals.first}, return_when=asyncio.FIRST_COMPLETED)
    failed = running.done()
    await end_tasks([reloading])
    if failed:
        # It serves nobody yet, or this is a bug: either way there is nothing to wait for.
        fleet.kill()
    else:
        running.cancel()
        await asyncio.wait({running})
    stopping = asyncio.ensure_future(fleet.stop())
    await asyncio.wait({stopping, signals.second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        fleet.kill()
    await stopping
    if failed:
        running.result()
    view.event(Event("stopped", "", "ended at once" if fleet.killed else "stopped"))
    return int(fleet.killed)
