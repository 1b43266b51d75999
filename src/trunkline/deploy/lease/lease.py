"""Holds the fleet's deploy for one process: takes the lease, renews it, writes states over it, and gives it up.

Rules:

- What is decided stands in `lease_rules.py`; here it meets the store.
- Every write is made over the revision of this holder's last one. While the store cannot be reached a write is tried
  again for as long as its caller waits; it returns when it is stored.
- A write whose answer was lost may have landed. It is recognized by its holder, and written over.
- A store that lost its content (it says that nothing is there) has lost the lease of nobody: it is written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from trunkline.bus.base import Entry, FleetStore
from trunkline.deploy.lease.rules import Held, LeaseTimes, Observed, may_take
from trunkline.errors import BusUnavailable, Changed, TrunklineError
from trunkline.logs.logger import get_logger
from trunkline.process.bounds import end_tasks
from trunkline.protocol.deploys import DEPLOY_KEY, DeployState, DeployStatus
from trunkline.protocol.timestamps import utc

log = get_logger("trunkline.deploy")

AGAIN_S: Final = 0.25
"""Pause before a write is tried again."""

TAKE_S: Final = 5.0
"""Time for which taking the lease is tried again when the store does not answer: it may have been taken."""


class LeaseHeld(TrunklineError):
    """Another deploy is there, or another process drives this one.

    Attributes:
        status: what is stored.
    """

    def __init__(self, status: DeployStatus) -> None:
        super().__init__(status.id)
        self.status = status

    def __str__(self) -> str:
        status = self.status
        text = f"deploy {status.id} to {status.to_colour} is {status.state} since {status.since}"
        if status.holder:
            text += f", driven by {status.owner}; if that has ended"
        else:
            text += f", last driven by {status.owner}"
        return f"{text}: trunkline deploy resume, rollback or abort"


class NothingToResume(TrunklineError):
    """There is no deploy that is not over.

    Attributes:
        status: of the last one, None when there was none.
    """

    def __init__(self, status: DeployStatus | None) -> None:
        super().__init__("no deploy")
        self.status = status

    def __str__(self) -> str:
        if self.status is None:
            return "no deploy was ever begun in this fleet"
        return f"deploy {self.status.id} is over: it is {self.status.state} since {self.status.since}"


class StatusUnreadable(TrunklineError):
    """What is stored of the deploy is of another release."""

    def __str__(self) -> str:
        return f"the deploy in the fleet's store is of another release ({self.args[0]}); use the release that began it"


class LeaseLost(TrunklineError):
    """Another process drives the deploy now; this one must give no more orders.

    Attributes:
        status: what is stored, None when it is no status of ours.
    """

    def __init__(self, status: DeployStatus | None) -> None:
        super().__init__("lease")
        self.status = status

    def __str__(self) -> str:
        return f"another process drives the deploy now: {self.status.owner if self.status else 'unknown'}"


class Lease:
    """The deploy as its holder drives it; made by `begin` or `resume`, and renewed until `give_up` or `close`.

    Attributes:
        status: as it was written last.
    """

    def __init__(self, store: FleetStore, status: DeployStatus, held: Held, times: LeaseTimes) -> None:
        self._store = store
        self._held = held
        self._times = times
        self._one_write = asyncio.Lock()
        self._lost: LeaseLost | None = None
        self._renewing = asyncio.create_task(self._renew())
        self.status = status

    @property
    def lost(self) -> bool:
        """Whether another process has taken it."""
        return self._lost is not None

    @property
    def sure(self) -> bool:
        """Whether orders may be given: nobody else can have taken it, for it was renewed lately."""
        return self._lost is None and self._held.sure(time.monotonic())

    async def write(self, *, state: DeployState | None = None, record: msgspec.Raw | None = None) -> None:
        """Store the state and the tool's record, each as it was where it is None; returns when they are stored.

        Raises:
            LeaseLost: another process drives the deploy.
            BusError: the record is too long.
        """
        async with self._one_write:
            status = self.status
            if state is not None and state != status.state:
                status = msgspec.structs.replace(status, state=state, since=utc(time.time()))
            if record is not None:
                status = msgspec.structs.replace(status, record=record)
            await self._store_status(status)

    async def give_up(self, *, within_s: float = 5.0) -> None:
        """Let somebody else take it at once; the state stays. After `within_s` seconds without a store it expires."""
        await end_tasks([self._renewing])
        if self._lost is not None:
            return
        with contextlib.suppress(TimeoutError, LeaseLost):
            async with asyncio.timeout(within_s), self._one_write:
                await self._store_status(msgspec.structs.replace(self.status, holder=""))

    async def close(self) -> None:
        """Stop renewing it and write nothing: it expires."""
        await end_tasks([self._renewing])

    async def _renew(self) -> None:
        while self._lost is None:
            await asyncio.sleep(self._times.renew_s)
            async with self._one_write:
                with contextlib.suppress(LeaseLost):
                    await self._store_status(self.status)

    async def _store_status(self, status: DeployStatus) -> None:
        """Write until it is stored; raises LeaseLost."""
        status = msgspec.structs.replace(status, renewals=status.renewals + 1)
        complained = False
        while True:
            if self._lost is not None:
                raise self._lost
            sent_at = time.monotonic()
            try:
                revision = await self._store.put(DEPLOY_KEY, msgspec.json.encode(status), self._held.revision)
            except Changed:
                with contextlib.suppress(BusUnavailable):
                    await self._look_again(status)
            except BusUnavailable as error:
                if not complained:
                    log.warning("deploy not stored", deploy=status.id, state=status.state, why=str(error))
                complained = True
                await asyncio.sleep(AGAIN_S)
            else:
                self._held.renewed(revision, sent_at)
                self.status = status
                return

    async def _look_again(self, sent: DeployStatus) -> None:
        """Find out who wrote the revision that is not the expected one; raises LeaseLost, BusUnavailable."""
        entry = await self._store.get(DEPLOY_KEY)
        if entry is None:
            log.warning("store lost the deploy", deploy=sent.id, text="it is written again")
            self._held.revision = 0
            return
        try:
            found = status_of(entry)
        except StatusUnreadable:
            found = None
        # What gives the lease up has no holder any more, and is recognized as a whole.
        if found is None or (found.holder != self.status.holder and found != sent):
            self._lost = LeaseLost(found)
            raise self._lost
        self._held.revision = entry.revision


async def begin(
    store: FleetStore,
    status: DeployStatus,
    *,
    times: LeaseTimes = LeaseTimes(),  # noqa: B008 - a constant
) -> Lease:
    """Begin a deploy; its holder is drawn here.

    Raises:
        LeaseHeld: there is one that is not over.
        StatusUnreadable: what is stored is of another release.
        BusUnavailable: the store cannot be reached.
    """
    while True:
        entry = await store.get(DEPLOY_KEY)
        there = status_of(entry)
        if there is not None and may_take("begin", there, changed=False, age_s=0, expired_s=0) != "take":
            raise LeaseHeld(there)
        with contextlib.suppress(Changed):
            return await _take(store, entry, status, times)


async def resume(
    store: FleetStore,
    owner: str,
    *,
    on_wait: Callable[[DeployStatus, float], None] = lambda _status, _left_s: None,
    times: LeaseTimes = LeaseTimes(),  # noqa: B008 - a constant
) -> Lease:
    """Go on with the deploy there is: at once when its lease was given up, else when it has expired.

    Args:
        store: where it is.
        owner: who drives it from now on, in words for people.
        on_wait: called about once a second while it waits, with the status and the seconds left.
        times: of the lease.

    Raises:
        LeaseHeld: another process renews it.
        NothingToResume: there is none that is not over.
        StatusUnreadable: what is stored is of another release.
        BusUnavailable: the store cannot be reached.
    """
    observed, changes = Observed(), 0
    while True:
        entry = await store.get(DEPLOY_KEY)
        now = time.monotonic()
        changes += observed.saw(entry.revision if entry is not None else 0, now)
        status, age_s = status_of(entry), observed.age_s(now)
        answer = may_take("resume", status, changed=changes > 1, age_s=age_s, expired_s=times.expired_s)
        if status is None or answer == "over":
            raise NothingToResume(status)
        if answer == "held":
            raise LeaseHeld(status)
        if answer == "take":
            with contextlib.suppress(Changed):
                return await _take(store, entry, msgspec.structs.replace(status, owner=owner), times)
            continue
        left_s = times.expired_s - age_s
        on_wait(status, left_s)
        await asyncio.sleep(min(left_s, times.renew_s / 5))


async def _take(store: FleetStore, entry: Entry | None, status: DeployStatus, times: LeaseTimes) -> Lease:
    """Write over what was found; raises Changed when somebody else was faster, BusUnavailable."""
    status = msgspec.structs.replace(status, holder=secrets.token_hex(8), renewals=0)
    ends = time.monotonic() + TAKE_S
    while True:
        sent_at = time.monotonic()
        try:
            found = entry.revision if entry is not None else 0
            revision = await store.put(DEPLOY_KEY, msgspec.json.encode(status), found)
        except Changed:
            entry = await store.get(DEPLOY_KEY)
            there = status_of(entry)
            if entry is None or there is None or there.holder != status.holder:
                raise
            revision = entry.revision  # the answer to an earlier try was lost
        except BusUnavailable:
            if sent_at > ends:
                raise
            await asyncio.sleep(AGAIN_S)
            continue
        return Lease(store, status, Held(revision, sent_at, times.holds_s), times)


def status_of(entry: Entry | None) -> DeployStatus | None:
    """The status that an entry of the store holds, None for no entry; raises StatusUnreadable."""
    if entry is None:
        return None
    try:
        return msgspec.json.decode(entry.value, type=DeployStatus)
    except msgspec.MsgspecError as error:
        raise StatusUnreadable(str(error)) from None
