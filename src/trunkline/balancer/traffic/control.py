"""The traffic table of the fleet in one balancer: followed in the store, applied to its picks, written on request.

Rules:

- What is in the store counts. While it cannot be reached the last table that was seen stays in force; it does so too
  when the store has lost it, for a colour that was held must not get clients because of a fault.
- Until the store has answered for the first time, the copy that this machine has of the table is in force.
- A write is made over the generation that its writer has seen, and over the revision that this balancer has read.
- The balancer that writes applies the table before it answers; the others when their watch brings it. Each says the
  generation that it applies with its next sign of life, which it sends at once.
- The state of the present deploy is followed beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import structlog

from trunkline.balancer.deploys import DeployWatch
from trunkline.balancer.traffic.copy import TableCopy
from trunkline.balancer.traffic.rules import next_table, unready
from trunkline.bus.base import Entry, FleetStore
from trunkline.errors import BusError, Changed, TrunklineError
from trunkline.placement.fleet import Fleet
from trunkline.placement.shares import by_setting, by_table
from trunkline.protocol.deploys import DEPLOY_KEY
from trunkline.protocol.timestamps import utc
from trunkline.protocol.traffic import TRAFFIC_KEY, TrafficOrder, TrafficTable

log = structlog.get_logger("trunkline.balancer")


class OtherGeneration(TrunklineError):
    """The table is not the one that the writer of an order has seen."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"expected generation {self.expected}, found {self.found}; read the table again"


class NotReady(TrunklineError):
    """The order would leave clients without a backend."""

    def __str__(self) -> str:
        return f"{self.args[0]}; start it first, or give force: true"


class Unreadable(BusError):
    """The stored table is no table that this release knows."""

    def __str__(self) -> str:
        return f"the stored traffic table cannot be read, perhaps it is of a newer release: {self.args[0]}"


class TrafficControl:
    """The table as this balancer knows it.

    Args:
        store: where it is kept; closed by whoever made it.
        deploys: is given what the store says of deploys.
        on_applied: called after another table was applied to the fleet.
        copy: of the table on this machine, None where there is none.

    Attributes:
        table: that is applied, None while none was ever written.
        learned: set once the store has said what there is.
    """

    def __init__(
        self,
        store: FleetStore,
        fleet: Fleet,
        deploys: DeployWatch,
        on_applied: Callable[[], None],
        copy: TableCopy | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._deploys = deploys
        self._on_applied = on_applied
        self._copy = copy
        self._to_copy = asyncio.Event()
        self.table: TrafficTable | None = None
        self.learned = asyncio.Event()

    @property
    def generation(self) -> int:
        """Of the table that is applied, 0 for none."""
        return 0 if self.table is None else self.table.generation

    async def run(self) -> None:
        """Follow the store until cancelled."""
        if self._copy is not None and not self.learned.is_set():
            self._begin_by(await self._copy.read())
        async with contextlib.AsyncExitStack() as watches:
            for key, on_entry in ((TRAFFIC_KEY, self._on_table), (DEPLOY_KEY, self._on_deploy)):
                watch = await self._store.watch(key, on_entry)
                watches.push_async_callback(watch.close)
            while True:
                await self._to_copy.wait()
                self._to_copy.clear()
                if self._copy is not None:
                    await self._copy.keep(self.table)

    async def put(self, order: TrafficOrder) -> None:
        """Write a table, and apply it.

        Raises:
            OtherGeneration: `expect` is not the present one; nothing was written.
            NotReady: clients would be left without a backend; nothing was written.
            Unreadable: what is stored is no table, and the order does not force; nothing was written.
            BusUnavailable: the store cannot be reached, so that nobody knows whether it was written.
        """
        entry = await self._store.get(TRAFFIC_KEY)
        try:
            present = self.table if entry is None else _decoded(entry)
        except Unreadable:
            if not order.force:
                raise
            present = self.table
        found = 0 if present is None else present.generation
        if order.expect != found:
            raise OtherGeneration(order.expect, found)
        why = "" if order.force else unready(order.weights, self._fleet.backends.values(), time.monotonic())
        if why:
            raise NotReady(why)
        table = next_table(order, present, utc(time.time()))
        try:
            await self._store.put(TRAFFIC_KEY, msgspec.json.encode(table), 0 if entry is None else entry.revision)
        except Changed:
            raise OtherGeneration(order.expect, found + 1) from None
        if self.table is None or self.table.generation < table.generation:
            self._apply(table)

    def _begin_by(self, copied: TrafficTable | None) -> None:
        if copied is not None and not self.learned.is_set():
            self.table = copied
            self._fleet.set_shares(by_table(copied), time.monotonic())
            log.info("traffic_by_copy", generation=copied.generation, weights=copied.weights)

    def _on_table(self, key: str, entry: Entry | None) -> None:
        if key != TRAFFIC_KEY:
            return
        first = not self.learned.is_set()
        self.learned.set()
        if entry is None:
            if self.table is not None and first:
                log.info("traffic_copy_dropped", generation=self.generation, text="the store has no table")
                self._apply(None)
            elif self.table is not None:
                log.error(
                    "traffic_table_lost",
                    generation=self.generation,
                    text="the store has no table any more; the last one stays in force. Write it again",
                )
            return
        try:
            table = _decoded(entry)
        except Unreadable as error:
            log.error("traffic_table_unreadable", generation=self.generation, why=str(error))
            return
        if table != self.table:
            self._apply(table)

    def _apply(self, table: TrafficTable | None) -> None:
        self.table = table
        if table is None:
            self._fleet.set_shares(by_setting(self._fleet.settings.groups), time.monotonic())
        else:
            self._fleet.set_shares(by_table(table), time.monotonic())
            log.info("traffic_changed", generation=table.generation, weights=table.weights, changed_by=table.changed_by)
        self._to_copy.set()
        self._on_applied()

    def _on_deploy(self, key: str, entry: Entry | None) -> None:
        if key != DEPLOY_KEY:
            return
        before = self._deploys.under_way
        value, revision = (None, 0) if entry is None else (entry.value, entry.revision)
        self._deploys.take(value, revision, time.monotonic())
        if self._deploys.under_way != before:
            state = "" if self._deploys.status is None else self._deploys.status.state
            log.info("deploy_ended" if before else "deploy_began", state=state)


def _decoded(entry: Entry) -> TrafficTable:
    try:
        return msgspec.json.decode(entry.value, type=TrafficTable)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from None
