"""A tool that drives a deploy in a process of its own, and dies by SIGKILL where it is to.

`python -m tests.support.deploy.tool ORDER`, with the order as JSON; prints the state that the deploy ended in.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from tests.support import ROOT
from tests.support.deploy.killed import DiesAt, DyingRuntime, DyingStore
from tests.support.patience import patient
from trunkline.bus.base import FleetStore
from trunkline.deploy.lease.lease import NothingToResume
from trunkline.deploy.lease.rules import LeaseTimes
from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.machine.plan import Plan
from trunkline.deploy.parts import DeployOptions, Outcome, Parts, Progress
from trunkline.deploy.run import resume_deploy, roll_back, run_deploy
from trunkline.deploy.runtimes.base import Runtime
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.runtimes.none import NoRuntime
from trunkline.deploy.world.reach import fleet_of
from trunkline.errors import BusUnavailable
from trunkline.settings.sections import BusSettings, Settings

TIMES = LeaseTimes(renew_s=0.2, holds_s=0.6, expired_s=0.8)
"""So short that a tool that takes over waits hardly longer for the lease than for its own start."""
NEVER = DiesAt(write=0)


class ToolOrder(msgspec.Struct, frozen=True):
    """What it is to do.

    Attributes:
        command: `run`, `resume` or `rollback`.
        admin: address of the balancer's admin port.
        token: of that port; empty for the one that is kept on this machine.
        data_dir: of the `trunkline up` that starts and stops nodes; empty when somebody else does.
        dies_at: where it kills itself.
        dies_in: the state in which it kills itself `after_s` seconds after it was stored; empty for none.
    """

    command: str
    nats: str
    prefix: str
    admin: str
    token: str
    edge: str
    options: DeployOptions
    data_dir: str = ""
    dies_at: DiesAt = NEVER
    dies_in: str = ""
    after_s: float = 0.0


async def use_tool(order: ToolOrder, environ: dict[str, str] | None = None) -> str:
    """Run it to its end: the state that it printed, empty when it was killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.deploy.tool", msgspec.json.encode(order).decode(),
        cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(patient(60)):
            printed, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode in (0, -signal.SIGKILL), printed.decode() + errors.decode()
    return printed.decode().split()[-1] if process.returncode == 0 else ""


async def drive(order: ToolOrder) -> Outcome:
    """Carry it out."""

    def on_progress(progress: Progress) -> None:
        if progress.state == order.dies_in:
            asyncio.get_running_loop().call_later(order.after_s, os.kill, os.getpid(), signal.SIGKILL)

    def runtime(_plan: Plan) -> Runtime:
        return DyingRuntime(LocalRuntime(Path(order.data_dir)) if order.data_dir else NoRuntime(), order.dies_at)

    smoke = smoking()
    settings = Settings(bus=BusSettings(url=order.nats, prefix=order.prefix))
    async with fleet_of(settings, (order.admin,), token=order.token, owner="a tool") as fleet:
        parts = Parts(
            store=DyingStore(fleet.store, order.dies_at), world=fleet.world, runtime=runtime,
            # How many handshakes a node takes is measured for two seconds each, elsewhere.
            smoke=lambda what: smoke(msgspec.structs.replace(what, briefly=True)),
            witnesses=lambda count: LoadWitnesses(order.edge, count), on_progress=on_progress, tick_s=0.1, times=TIMES,
        )  # fmt: skip
        await _reached(fleet.store)
        match order.command:
            case "run":
                return await run_deploy(order.options, parts)
            case "resume":
                return await resume_deploy(parts, "another tool")
            case _:
                return await roll_back(parts, "another tool")


async def _reached(store: FleetStore) -> None:
    while True:
        try:
            await store.get("traffic")
            return
        except BusUnavailable:
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    try:
        state = asyncio.run(drive(msgspec.json.decode(sys.argv[1], type=ToolOrder))).state
    except NothingToResume as error:
        if error.status is None:
            raise
        state = error.status.state
    print(state, flush=True)
