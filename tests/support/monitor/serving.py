"""Runs a `trunkline` process for tests that look at what it writes and shows, and ends it whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.support.patience import patient

DEADLINE_S = patient(30.0)
PLAIN_NAMES = ("PORT", "HOST", "LOG_LEVEL", "HEARTBEAT_INTERVAL", "CONNECTION_TIMEOUT", "MAX_CONNECTIONS")


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path, *arguments: str, ready: str, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`trunkline` with these arguments from when the URL `ready` answers until the block is left.

    Args:
        tmp_path: its working directory; `stdout` and `stderr` are written there.
        arguments: of the command line.
        ready: a URL that answers 200 once it is up.
        environ: settings.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRUNKLINE_") and name not in PLAIN_NAMES
    }
    with open(tmp_path / "stdout", "wb") as out, open(tmp_path / "stderr", "wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", *arguments,
            cwd=tmp_path, env=kept | {"XDG_STATE_HOME": str(tmp_path / "state")} | environ,
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err,
        )  # fmt: skip
    try:
        await _wait_until_ready(process, ready, tmp_path)
        yield process
    finally:
        # The second one cuts a drain short.
        for _ in range(2):
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), patient(5))
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(DEADLINE_S):
        while True:
            assert process.returncode is None, (tmp_path / "stderr").read_text()
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
