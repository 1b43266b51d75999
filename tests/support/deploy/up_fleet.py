"""A running `trunkline up`, in which a deploy starts and stops nodes, and versions of an application that fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from tests.support.fleet_process import FleetProcess
from tests.support.patience import patient
from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.machine.plan import Limits
from trunkline.deploy.parts import DeployOptions, Outcome, Parts, Progress
from trunkline.deploy.run import run_deploy
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.world.reach import fleet_of
from trunkline.errors import BusUnavailable
from trunkline.settings.sections import BusSettings, Settings

TOKEN = "t0ken-of-a-fleet-that-deploys"
LIMITS = Limits(settle_s=0.5, finish_s=5.0, away_s=5.0, lag_ms=5_000.0)
"""Short times; and a busy machine lags."""

FAULT = "fault"
"""The file that breaks versions which work without it."""

VERSIONS = f'''
import asyncio
import pathlib
import time

from trunkline import App
from trunkline.server.app.stock import Echo, Feed

FAULT = pathlib.Path(__file__).with_name("{FAULT}")


class Doubles(Echo):
    def on_message(self, client, message):
        client.send(message * 2)


class Fails(Feed):
    def admit(self, request):
        if FAULT.exists():
            raise LookupError("the table of users is missing")


def version(feed=Feed, echo=Echo):
    made = App("a version")
    made.websocket("/ws", channels=True)(feed)
    made.websocket("/ws/echo", envelope=False)(echo)
    return made


doubles, fails, lags, waits = version(echo=Doubles), version(Fails), version(), version()


@lags.every(0.1)
async def block():
    if FAULT.exists():
        time.sleep(1.0)


@waits.on_startup
async def wait_for_a_database():
    print("waiting for the database", flush=True)
    await asyncio.sleep(3600)
'''


class UpFleet:
    """The fleet; `edge` is where clients connect, and `folder` where it runs."""

    def __init__(self, up: FleetProcess, folder: Path) -> None:
        self.up = up
        self.folder = folder
        self.local = LocalRuntime(folder / "data")
        self.edge = str(up.addresses["edge"]["websocket"])

    @contextlib.asynccontextmanager
    async def parts(self, on_progress: Callable[[Progress], None] = lambda _: None) -> AsyncIterator[Parts]:
        """Those of one tool."""
        places = await self.local.places()
        settings = Settings(bus=BusSettings(url=places.bus))
        async with fleet_of(settings, (places.balancer,), token=TOKEN, owner="a test") as fleet:
            async with asyncio.timeout(patient(10)):
                while True:
                    with contextlib.suppress(BusUnavailable):
                        await fleet.store.get("traffic")
                        break
                    await asyncio.sleep(0.02)
            yield Parts(
                store=fleet.store, world=fleet.world, runtime=lambda _: LocalRuntime(self.folder / "data"),
                smoke=smoking(), witnesses=lambda count: LoadWitnesses(self.edge, count), on_progress=on_progress,
                tick_s=0.2,
            )  # fmt: skip

    async def deploy(self, app: str, *, breaks_in: str = "", **changed: object) -> Outcome:
        """Deploy a version as green, quickly; it breaks when the deploy enters a state."""
        fault = self.folder / FAULT
        fault.unlink(missing_ok=True)

        def on_progress(progress: Progress) -> None:
            if progress.state == breaks_in:
                fault.touch()

        options = DeployOptions(
            "green", "local", What(app=app), nodes=1, over_s=3.0, verify_s=1.5, keep_s=0.0, witnesses=5,
            owner="a test", limits=LIMITS,
        )  # fmt: skip
        async with self.parts(on_progress) as parts:
            return await run_deploy(msgspec.structs.replace(options, **changed), parts)


@contextlib.asynccontextmanager
async def up_fleet(folder: Path) -> AsyncIterator[UpFleet]:
    """One blue node of the stock application behind the relay."""
    (folder / "unimportable.py").write_text("raise LookupError('the moon is missing')\n")
    (folder / "versions.py").write_text(VERSIONS)
    exempt = '["127.0.0.0/8"]'
    up = await FleetProcess.start(folder, "--nodes", "1", TRUNKLINE_ADMIN_TOKEN=TOKEN, TRUNKLINE_LIMITS_EXEMPT=exempt)
    try:
        yield UpFleet(await up.ready(), folder)
    finally:
        assert await up.stop() == 0
        assert await up.left() == []
