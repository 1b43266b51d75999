"""A worker that hangs without dying: the kernel still hands it clients, so it must be noticed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest

from tests.support.balancer.balance_process import ForeignBackend, connect_many
from tests.support.patience import patient
from trunkline.balancer.core import Balancer
from trunkline.balancer.workers import supervisor as workers_module
from trunkline.balancer.workers.supervisor import Workers
from trunkline.settings.balancer import BackendEntry
from trunkline.settings.sections import Settings


async def test_a_worker_that_hangs_is_replaced(foreign: list[ForeignBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped worker is killed after its time of silence, and clients get through to the one in its place."""
    monkeypatch.setattr(workers_module, "SILENT_S", 2.0)
    section = msgspec.structs.replace(
        Settings().balancer, port=0, workers=1, backends=tuple(BackendEntry(each.url) for each in foreign)
    )
    settings = msgspec.structs.replace(Settings(), balancer=section)
    balancer = Balancer(settings)
    await balancer.start()
    crew = Workers(balancer, settings)
    try:
        await crew.start()
        before = crew._children[0].pid
        os.kill(before, signal.SIGSTOP)
        async with asyncio.timeout(patient(20)):
            (client,) = await connect_many(crew.port, 1)
        assert crew._children[0].pid != before
        await client.close()
    finally:
        await crew.stop(0.0)
        await balancer.stop()
