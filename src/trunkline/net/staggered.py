"""One connection to a host with several addresses: staggered attempts, the first that connects wins (RFC 8305).

Rules:

- Addresses of both families take turns (section 4), beginning with the system's first choice (RFC 6724).
- The next attempt begins when the one before it has failed, or `DELAY_S` after it, whichever is first (section 5).
- When one has connected the others are cancelled; what connects at the same moment is let go of.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, Final, TypeVar

DELAY_S: Final = 0.25
"""The Connection Attempt Delay that RFC 8305 recommends (section 5)."""

Made = TypeVar("Made")
Address = tuple[int, Any]
"""Family and socket address."""


def interleaved(found: Sequence[Address]) -> list[Address]:
    """The addresses with families by turns, each family in its order; the first stays the first."""
    by_family: dict[int, list[Address]] = {}
    for address in found:
        by_family.setdefault(address[0], []).append(address)
    return [each for each in chain.from_iterable(zip_longest(*by_family.values())) if each is not None]


async def first_to_connect(
    addresses: Sequence[Address], connect: Callable[[Address], Awaitable[Made]], let_go: Callable[[Made], None]
) -> Made:
    """What `connect` makes of the first address that takes a connection.

    `connect` closes what it began when it fails or is cancelled; `let_go` closes what connected too late. Raises what
    the last attempt raised, OSError without any address.
    """
    if len(addresses) == 1:
        return await connect(addresses[0])
    waiting = deque(interleaved(addresses))
    running: set[asyncio.Task[Made]] = set()
    last: BaseException = OSError("no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_attempt(connect, waiting.popleft())))
            done, _ = await asyncio.wait(
                running, timeout=DELAY_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    running.discard(task)
                    return task.result()
                running.discard(task)
                last = error
        raise last
    finally:
        for task in running:
            # Now or once it notices: it may connect before it does.
            task.add_done_callback(lambda task: _clear(task, let_go))
            task.cancel()


async def _attempt(connect: Callable[[Address], Awaitable[Made]], address: Address) -> Made:
    return await connect(address)


def _clear(task: asyncio.Task[Made], let_go: Callable[[Made], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        let_go(task.result())
