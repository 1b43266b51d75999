"""`trunkline monitor up`: Prometheus, Alertmanager and node_exporter beside a fleet on this machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from trunkline.monitor.local.stack import Ended, LocalStack
from trunkline.process import lifecycle
from trunkline.settings.sections import Settings


async def run_stack(settings: Settings, directory: Path, fleet: str, first_port: int, as_json: bool) -> int:
    """Run the stack until a signal comes or one of its programs ends."""
    signals = lifecycle.Signals()
    starting = asyncio.ensure_future(LocalStack.start(settings, directory, fleet, first_port))
    either: set[asyncio.Future[Any]] = {starting, signals.first}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    stack = starting.result()
    where = stack.addresses
    if as_json:
        print(msgspec.json.encode(where).decode(), flush=True)
    else:
        print(f"prometheus     {where.prometheus}\nalertmanager   {where.alertmanager}")
        print(f"node_exporter  {where.node_exporter}\nfiles          {where.files}", flush=True)
    if stack.silence:
        print(f"trunkline: {fleet} reports no nodes: {stack.silence}; trying again every few seconds", file=sys.stderr)
    watching = asyncio.ensure_future(stack.watch())
    await asyncio.wait({watching, signals.first}, return_when=asyncio.FIRST_COMPLETED)
    failed = watching.done()
    watching.cancel()
    stopping = asyncio.ensure_future(stack.stop())
    await asyncio.wait({stopping, signals.second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    if failed:
        try:
            watching.result()
        except Ended as error:
            print(f"trunkline: {error}", file=sys.stderr)
    return int(failed)
