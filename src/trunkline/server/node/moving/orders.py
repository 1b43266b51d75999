"""Orders and questions that a node answers over NATS: to move some clients, to drain or no longer, to count.

Rules:

- Each is for one node by its name, and is answered: with what was asked for, or with a `Problem`. What comes without an
  address for the answer is not carried out: a user of NATS who may not order can have JetStream send one of its answers
  here, and those carry no such address.
- Who writes to these subjects is let in by NATS: what it sends is bounded and checked all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from trunkline.errors import BusError
from trunkline.logs.logger import get_logger
from trunkline.process.bounds import end_tasks
from trunkline.protocol import subjects
from trunkline.protocol.control import DrainOrder, KeysAsked, MoveOrder, Problem, UndrainOrder
from trunkline.protocol.goodbyes import CountsAsked, MoveCounts
from trunkline.server.node.moving.draining import Draining
from trunkline.server.node.moving.move import Mover

if TYPE_CHECKING:
    from trunkline.bus.base import FleetLink, Subscription

log = get_logger("trunkline.node")

Order = MoveOrder | KeysAsked | DrainOrder | UndrainOrder | CountsAsked


class FleetOrders:
    """Takes the orders for one node.

    Args:
        node: its name.
        drain_ms: gives the time over which clients are asked to move when a drain names none.
        counts: gives the node's counts now.
    """

    def __init__(
        self,
        node: str,
        drain_ms: Callable[[], int],
        draining: Draining,
        mover: Mover,
        counts: Callable[[], MoveCounts],
        link: FleetLink,
    ) -> None:
        self._node = node
        self._drain_ms = drain_ms
        self._draining = draining
        self._mover = mover
        self._counts = counts
        self._link = link
        self._listening: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take orders from now on."""
        prefix, node = self._link.prefix, self._node
        await self._listen(subjects.move_subject(prefix, node), MoveOrder, self._mover.move)
        await self._listen(subjects.keys_subject(prefix, node), KeysAsked, self._count_keys)
        await self._listen(subjects.drain_subject(prefix, node), DrainOrder, self._drain)
        await self._listen(subjects.undrain_subject(prefix, node), UndrainOrder, self._undrain)
        await self._listen(subjects.counts_subject(prefix, node), CountsAsked, self._count)

    async def stop(self) -> None:
        """Take no more; one that is being answered gets no answer."""
        for subscription in self._listening:
            await subscription.close()
        await end_tasks(list(self._tasks))

    async def _listen(self, subject: str, kind: type[Order], carry_out: Callable[[Any], Awaitable[Any]]) -> None:
        def on_note(data: bytes, reply: str) -> None:
            task = asyncio.get_running_loop().create_task(self._answer(data, reply, kind, carry_out))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._listening.append(await self._link.listen(subject, on_note))

    async def _count_keys(self, asked: KeysAsked) -> msgspec.Struct:
        return await self._mover.count_keys(asked.by)

    async def _drain(self, order: DrainOrder) -> msgspec.Struct:
        return self._draining.begin(self._drain_ms() if order.over_ms is None else order.over_ms)

    async def _undrain(self, order: UndrainOrder) -> msgspec.Struct:
        return self._draining.end()

    async def _count(self, asked: CountsAsked) -> msgspec.Struct:
        return self._counts()

    async def _answer(
        self, data: bytes, reply: str, kind: type[Order], carry_out: Callable[[Any], Awaitable[msgspec.Struct]]
    ) -> None:
        if not reply:
            log.warning("order_refused", node=self._node, why="it has no address for the answer")
            return
        answer: msgspec.Struct
        try:
            if len(data) > subjects.MAX_MESSAGE_BYTES:
                raise ValueError(f"an order of {len(data)} bytes is longer than {subjects.MAX_MESSAGE_BYTES}")
            answer = await carry_out(msgspec.json.decode(data, type=kind))
        except ValueError as error:  # msgspec's errors are ValueErrors too
            log.warning("order_refused", node=self._node, why=str(error))
            answer = Problem("bad_request", str(error))
        try:
            await self._link.send(reply, msgspec.json.encode(answer))
        except BusError as error:
            # The sender gets no answer, and counts the order as failed; it is carried out all the same.
            log.warning("answer_not_sent", node=self._node, why=str(error))
