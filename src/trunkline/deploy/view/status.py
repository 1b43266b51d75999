"""The stored state of a deploy, for those who do not drive it: once, or until it is over."""

from __future__ import annotations

import asyncio
import time
from typing import Final, TextIO

import msgspec

from trunkline.bus.base import FleetStore
from trunkline.deploy.lease.rules import Observed
from trunkline.deploy.run import read_status
from trunkline.errors import BusUnavailable
from trunkline.load.output.formatting import plain, seconds
from trunkline.protocol.deploys import DEPLOY_KEY, EXPIRED_S, OVER, DeployStatus

LOOK_EVERY_S: Final = 1.0


class ShownStatus(msgspec.Struct, frozen=True):
    """A line of `deploy status --json`.

    Attributes:
        lease_age_s: for how long the lease was seen not to be renewed, None without a lease or for a single look.
        expired: whether anybody may resume it.
    """

    id: str
    state: str
    from_colour: str
    to_colour: str
    owner: str
    started_at: str
    since: str
    lease_age_s: float | None
    expired: bool


def shown(status: DeployStatus, lease_age_s: float | None) -> ShownStatus:
    """What others may know of it."""
    over = status.state in OVER
    expired = not over and (not status.holder or (lease_age_s is not None and lease_age_s >= EXPIRED_S))
    return ShownStatus(
        status.id, status.state, status.from_colour, status.to_colour, status.owner, status.started_at, status.since,
        lease_age_s if status.holder and not over else None, expired,
    )  # fmt: skip


def status_line(status: ShownStatus) -> str:
    """The same for people."""
    text = (
        f"deploy {status.id}  {status.from_colour or 'nothing'} -> {status.to_colour}  {status.state} since "
        f"{status.since}  by {status.owner}"
    )
    if status.expired:
        return f"{text}; nobody drives it: trunkline deploy resume, rollback or abort"
    if status.lease_age_s is not None and status.lease_age_s >= EXPIRED_S / 2:
        return f"{text}; not heard of for {seconds(status.lease_age_s)}"
    return text


async def show_status(store: FleetStore, out: TextIO, *, watch: bool, as_json: bool) -> None:
    """Write the state; with `watch` each change of it until the deploy is over.

    Raises as `read_status` does; with `watch` a store that is away later is waited for.
    """
    observed = Observed()
    before = ""
    while True:
        try:
            status = await read_status(store)
            entry = await store.get(DEPLOY_KEY) if watch else None
        except BusUnavailable:
            if not before:
                raise
            await asyncio.sleep(LOOK_EVERY_S)
            continue
        if status is None:
            out.write("null\n" if as_json else "no deploy was ever begun in this fleet\n")
            return
        age_s = None
        if watch and entry is not None:
            observed.saw(entry.revision, time.monotonic())
            age_s = round(observed.age_s(time.monotonic()), 1)
        found = shown(status, age_s)
        line = msgspec.json.encode(found).decode() if as_json else plain(status_line(found))
        # Its age alone is no news, but for people when it is long.
        news = status_line(found)
        if news != before:
            before = news
            out.write(line + "\n")
            out.flush()
        if not watch or status.state in OVER:
            return
        await asyncio.sleep(LOOK_EVERY_S)
