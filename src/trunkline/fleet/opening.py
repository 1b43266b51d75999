"""Gives new connections to the colour that a fleet of this machine starts with.

A traffic table outlives the fleet that it was written for: NATS keeps it in the fleet's directory. A fleet that starts
has no other colour that could have the connections, so a table that holds its own is replaced, and said so. It runs as
a process of its own (`python -m trunkline.fleet.opening COLOUR URL PREFIX`), for `up` loads no client of NATS.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import msgspec

from trunkline.bus.nats.store import NatsStore
from trunkline.bus.nats.wire import Wire
from trunkline.errors import BusError, BusUnavailable
from trunkline.nats.address import parse_address
from trunkline.placement.shares import by_table
from trunkline.protocol.timestamps import utc
from trunkline.protocol.traffic import TRAFFIC_KEY, TrafficTable
from trunkline.settings.sections import BusSettings

WRITER: Final = "trunkline up"
UNSEEN: Final = "the traffic table of an earlier fleet could not be looked at"


async def open_to(colour: str, bus: BusSettings) -> str:
    """Have the table give connections to `colour`; returns what was changed, or why it could not be, empty for nothing.

    Call it before any balancer of the fleet starts.
    """
    # Not by `open_store`: its lasting link logs, and what `up` writes is its view.
    store = NatsStore(bus)
    try:
        wire = await Wire.connect(parse_address(bus.url), prefix=bus.prefix, tls=None)
    except BusUnavailable as error:
        return f"{UNSEEN}: {error}"
    try:
        await store.attach(wire)
        entry = await store.get(TRAFFIC_KEY)
        if entry is None:
            return ""
        table = msgspec.json.decode(entry.value, type=TrafficTable)
        if not by_table(table).holds(colour):
            return ""
        fresh = TrafficTable(table.generation + 1, {colour: 100.0}, utc(time.time()), WRITER)
        await store.put(TRAFFIC_KEY, msgspec.json.encode(fresh), entry.revision)
    except (BusError, msgspec.MsgspecError) as error:
        return f"{UNSEEN}: {error}"
    finally:
        await store.close()
        await wire.close("the table was looked at")
    named = ", ".join(f"{name} {weight:g}" for name, weight in table.weights.items())
    return f"new connections go to {colour}: the traffic table of an earlier fleet held it ({named})"


def main(colour: str, url: str, prefix: str) -> None:
    """Do it, and write what `open_to` returns."""
    sys.stdout.write(asyncio.run(open_to(colour, BusSettings(url=url, prefix=prefix))))


if __name__ == "__main__":
    main(*sys.argv[1:])
