"""The commands of a deploy, for `cli` and for tests: run, resume, rollback, abort, status.

Rule: `run_deploy` and `resume_deploy` drive it in this process until it is over or stuck, or `Parts.stop` is set. An
order to roll back or abort is left for the process that drives it; where none does, this one takes the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from typing import Final

import msgspec

from trunkline.bus.base import Entry, FleetStore
from trunkline.deploy.drive.driver import Driver
from trunkline.deploy.drive.recording import RECORD_KEY, Kept, Recorder
from trunkline.deploy.lease import lease as leases
from trunkline.deploy.lease.lease import Lease, LeaseHeld, NothingToResume, StatusUnreadable, status_of
from trunkline.deploy.lease.rules import Observed
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.preflight import plan
from trunkline.deploy.machine.seen import PersonsOrder
from trunkline.deploy.parts import ORDER_KEY, DeployOptions, Outcome, Parts
from trunkline.deploy.verdict.kept import read
from trunkline.deploy.verdict.verdict import make_verdict
from trunkline.errors import TrunklineError
from trunkline.protocol.deploys import DEPLOY_KEY, OVER, DeployStatus
from trunkline.protocol.timestamps import utc

POLL_S: Final = 0.5


class Order(msgspec.Struct, frozen=True):
    """A person's order to the process that drives the deploy `id`; `number` is drawn, so that it is heard once."""

    id: str
    order: PersonsOrder
    by: str = ""
    number: str = ""


class NotTaken(TrunklineError):
    """This process was stopped while it waited for the lease.

    Attributes:
        status: what is stored.
    """

    def __init__(self, status: DeployStatus) -> None:
        super().__init__(f"interrupted before the deploy was taken over; it is {status.state}")
        self.status = status


async def run_deploy(options: DeployOptions, parts: Parts) -> Outcome:
    """Begin a deploy and drive it.

    Raises:
        LeaseHeld: there is one that is not over (exit code 5).
        StatusUnreadable: what is stored is of another release.
        FleetUnreachable: no balancer can be reached, so that nothing was begun.
        FleetRefused: the balancer does not answer this command.
        BusUnavailable: the store cannot be reached.
        LeaseLost: another process took it over meanwhile.
    """
    there = await read_status(parts.store)
    if there is not None and there.state not in OVER:
        raise LeaseHeld(there)
    fleet = await parts.world.look()
    deploy = Deploy(
        plan(
            fleet,
            id=secrets.token_hex(4),
            to_colour=options.to_colour,
            nodes=options.nodes,
            runtime=options.runtime,
            what=options.what,
            over_s=options.over_s,
            rate=options.rate,
            verify_s=options.verify_s,
            keep_s=options.keep_s,
            witnesses=options.witnesses if parts.witnesses is not None else 0,
            on_slow=options.on_slow,
            without=options.without,
            limits=options.limits,
        )
    )
    now = utc(time.time())
    status = DeployStatus(
        id=deploy.plan.id,
        state=deploy.state,
        from_colour=deploy.plan.from_colour,
        to_colour=deploy.plan.to_colour,
        owner=options.owner,
        holder="",
        renewals=0,
        started_at=now,
        since=now,
        record=msgspec.Raw(msgspec.json.encode(deploy)),
    )
    lease = await leases.begin(parts.store, status, times=parts.times)
    return await _drive(parts, lease, deploy, Kept(deploy.plan.id), taken_over=False)


async def resume_deploy(parts: Parts, owner: str) -> Outcome:
    """Go on with the deploy there is.

    Raises:
        LeaseHeld: another process drives it (exit code 5).
        NothingToResume: there is none.
        NotTaken: `Parts.stop` was set before it was taken over.
        StatusUnreadable, BusUnavailable, LeaseLost: as `run_deploy`.
    """
    return await _take_over(parts, owner, "")


async def roll_back(parts: Parts, owner: str) -> Outcome:
    """Have the deploy rolled back; from `retiring` on there is nothing to go back to. Raises as `resume_deploy`."""
    return await _ordered(parts, owner, "rollback")


async def abort_deploy(parts: Parts, owner: str) -> Outcome:
    """End the deploy: undone before traffic was switched, afterwards left as it is. Raises as `resume_deploy`."""
    return await _ordered(parts, owner, "abort")


async def read_status(store: FleetStore) -> DeployStatus | None:
    """The present or last deploy, None when there was none. Raises StatusUnreadable, BusUnavailable."""
    return status_of(await store.get(DEPLOY_KEY))


def deploy_of(status: DeployStatus) -> Deploy:
    """How far a deploy has come, from its stored status; raises StatusUnreadable."""
    try:
        return msgspec.json.decode(status.record, type=Deploy)
    except msgspec.MsgspecError as error:
        raise StatusUnreadable(str(error)) from None


async def _ordered(parts: Parts, owner: str, order: PersonsOrder) -> Outcome:
    """Take it over and carry the order out; or leave the order to the process that drives it, and wait."""
    try:
        return await _take_over(parts, owner, order)
    except LeaseHeld as held:
        id = held.status.id
        parts.on_wait(f"{order} is left to {held.status.owner}, which drives the deploy; waiting for its end")
    await parts.store.put(ORDER_KEY, msgspec.json.encode(Order(id, order, owner, secrets.token_hex(4))), None)
    observed = Observed()
    while True:
        entry = await parts.store.get(DEPLOY_KEY)
        status = status_of(entry)
        if entry is None or status is None or status.id != id:
            raise NothingToResume(status)
        if status.state in OVER or status.state == "stuck" or parts.stop.is_set():
            deploy = deploy_of(status)
            facts = Recorder(await _kept(parts.store, id)).facts(deploy, deploy.since, status.started_at, None)
            over = status.state in OVER or status.state == "stuck"
            verdict = await read(parts.store, id) if over else None
            return Outcome(id, status.state, deploy.why, verdict or make_verdict(facts), interrupted=not over)
        now = time.monotonic()
        observed.saw(entry.revision, now)
        if not status.holder or observed.age_s(now) >= parts.times.expired_s:
            # Whoever drove it has ended before it heard the order.
            with contextlib.suppress(LeaseHeld):
                return await _take_over(parts, owner, order)
        await asyncio.sleep(POLL_S)


async def _take_over(parts: Parts, owner: str, order: PersonsOrder) -> Outcome:
    said = False

    def on_wait(status: DeployStatus, left_s: float) -> None:
        nonlocal said
        if parts.stop.is_set():
            raise NotTaken(status)
        if not said:
            parts.on_wait(
                f"{status.owner} may still drive it; if it does not, it is taken over in {math.ceil(left_s)} s"
            )
        said = True

    lease = await leases.resume(parts.store, owner, on_wait=on_wait, times=parts.times)
    try:
        deploy, kept = deploy_of(lease.status), await _kept(parts.store, lease.status.id)
    except BaseException:
        await lease.give_up()
        raise
    return await _drive(parts, lease, deploy, kept, taken_over=True, order=order)


async def _drive(
    parts: Parts, lease: Lease, deploy: Deploy, kept: Kept, *, taken_over: bool, order: PersonsOrder = ""
) -> Outcome:
    """Drive it, and hear a person's orders meanwhile."""
    try:
        runtime = parts.runtime(deploy.plan)
    except BaseException:
        await lease.give_up()
        raise
    driver = Driver(parts, lease, deploy, kept, runtime, taken_over=taken_over)
    if order:
        driver.order(order)

    def on_entry(_key: str, entry: Entry | None) -> None:
        ordered = _order_in(entry)
        # The last one stays in the store: a process that takes over finds it, and has it heard no second time.
        if (
            ordered is not None
            and ordered.id == deploy.plan.id
            and (not ordered.number or ordered.number != deploy.heard)
        ):
            driver.order(ordered.order, ordered.number)

    watch = await parts.store.watch(ORDER_KEY, on_entry)
    try:
        return await driver.drive()
    finally:
        await watch.close()
        await runtime.close()
        await lease.close()


def _order_in(entry: Entry | None) -> Order | None:
    try:
        return msgspec.json.decode(entry.value, type=Order) if entry is not None else None
    except msgspec.MsgspecError:
        return None


async def _kept(store: FleetStore, id: str) -> Kept:
    """What was recorded of the deploy so far; nothing, where that was of another one or cannot be read."""
    entry = await store.get(RECORD_KEY)
    try:
        kept = msgspec.json.decode(entry.value, type=Kept) if entry is not None else Kept(id)
    except msgspec.MsgspecError:
        return Kept(id)
    return kept if kept.id == id else Kept(id)
