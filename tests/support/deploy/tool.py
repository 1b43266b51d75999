"""A tool that drives a deploy of a `RealFleet` in a process of its own, and dies by SIGKILL in a state.

`python -m tests.support.deploy.tool ORDER`, with the order as JSON; prints the state that the deploy ended in.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec

from trunkline.deploy.lease_rules import LeaseTimes
from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.parts import DeployOptions, Outcome, Parts, Progress
from trunkline.deploy.reach import fleet_of
from trunkline.deploy.run import resume_deploy, roll_back, run_deploy
from trunkline.deploy.runtimes.none import NoRuntime
from trunkline.errors import BusUnavailable
from trunkline.settings.sections import BusSettings, Settings

TIMES = LeaseTimes(renew_s=0.3, holds_s=1.2, expired_s=1.5)


class ToolOrder(msgspec.Struct, frozen=True):
    """What it is to do.

    Attributes:
        command: `run`, `resume` or `rollback`.
        dies_in: the state in which it kills itself, empty for none; after its intent was stored and shown, and
            `after_s` seconds of carrying it out.
    """

    command: str
    nats: str
    prefix: str
    admin: str
    token: str
    edge: str
    options: DeployOptions
    dies_in: str = ""
    after_s: float = 0.0


async def drive(order: ToolOrder) -> Outcome:
    """Carry it out."""

    def on_progress(progress: Progress) -> None:
        if progress.state == order.dies_in:
            if order.after_s:
                asyncio.get_running_loop().call_later(order.after_s, os.kill, os.getpid(), signal.SIGKILL)
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings(bus=BusSettings(url=order.nats, prefix=order.prefix))
    async with fleet_of(settings, (order.admin,), token=order.token, owner="a tool") as fleet:
        parts = Parts(
            store=fleet.store, world=fleet.world, runtime=lambda _name: NoRuntime(), smoke=smoking(),
            witnesses=lambda count: LoadWitnesses(order.edge, count), on_progress=on_progress, tick_s=0.25, times=TIMES,
        )  # fmt: skip
        while True:
            try:
                await fleet.store.get("traffic")
                break
            except BusUnavailable:
                await asyncio.sleep(0.02)
        match order.command:
            case "run":
                return await run_deploy(order.options, parts)
            case "resume":
                return await resume_deploy(parts, "another tool")
            case _:
                return await roll_back(parts, "another tool")


if __name__ == "__main__":
    outcome = asyncio.run(drive(msgspec.json.decode(sys.argv[1], type=ToolOrder)))
    print(outcome.state, flush=True)
