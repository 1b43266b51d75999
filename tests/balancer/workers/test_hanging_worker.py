"""A worker that hangs without dying: the kernel still hands it clients, so it must be noticed and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.support.balancer.balance_process import ForeignBackend, connect_many
from tests.support.patience import patient
from trunkline.balancer.core import Balancer
from trunkline.balancer.listening import client_sockets
from trunkline.balancer.workers import supervisor as workers_module
from trunkline.balancer.workers.supervisor import Workers
from trunkline.process.progress import Look
from trunkline.settings.balancer import BackendEntry
from trunkline.settings.sections import Settings

SILENT_S = 2.0
BUSY_LOOP = """
import signal

def spin(number, frame):
    while True:
        pass

signal.signal(signal.SIGUSR1, spin)
"""


@contextlib.asynccontextmanager
async def running(foreign: list[ForeignBackend], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Workers, int]]:
    """A balancer with one worker, which may be silent for a short time only, and its port."""
    monkeypatch.setattr(workers_module, "SILENT_S", SILENT_S)
    section = msgspec.structs.replace(
        Settings().balancer, port=0, workers=1, backends=tuple(BackendEntry(each.url) for each in foreign)
    )
    settings = msgspec.structs.replace(Settings(), balancer=section)
    balancer = Balancer(settings)
    await balancer.start()
    crew = Workers(balancer, settings)
    try:
        sockets = client_sockets(section)
        await crew.start(sockets)
        yield crew, sockets[0].getsockname()[1]
    finally:
        await crew.stop(0.0)
        await balancer.stop()


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "busy loop"])
async def test_a_worker_that_hangs_is_replaced(
    foreign: list[ForeignBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: signal.Signals
) -> None:
    """It is killed after its time of silence, and clients get through to the one in its place."""
    (tmp_path / "sitecustomize.py").write_text(BUSY_LOOP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with running(foreign, monkeypatch) as (crew, port):
        before = crew._children[0].pid
        os.kill(before, how)
        async with asyncio.timeout(patient(20)):
            (client,) = await connect_many(port, 1)
        assert crew._children[0].pid != before
        await client.close()


async def test_a_worker_that_is_starved_is_left_alone(
    foreign: list[ForeignBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is silent because it gets no processor goes on when it gets one."""
    waited_s = 0.0
    looked = asyncio.Event()

    def starved(pid: int, at: float) -> Look:
        nonlocal waited_s
        waited_s = at
        if at > until:
            looked.set()
        return Look(at, 0.0, waited_s, 0.0)

    async with running(foreign, monkeypatch) as (crew, port):
        before = crew._children[0].pid
        os.kill(before, signal.SIGSTOP)
        until = asyncio.get_running_loop().time() + 2 * SILENT_S
        monkeypatch.setattr(workers_module, "look", starved)
        async with asyncio.timeout(patient(20)):
            await looked.wait()
            os.kill(before, signal.SIGCONT)
            (client,) = await connect_many(port, 1)
        assert crew._children[0].pid == before
        await client.close()
