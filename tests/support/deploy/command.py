"""`trunkline deploy` as a user runs it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.environment import environment
from tests.support.patience import patient


async def start(folder: Path, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
    """Start it in a folder, with pipes."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "deploy", *arguments,
        cwd=folder, env=environment(folder, **environ),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def deploy(folder: Path, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of it, run in a folder."""
    process = await start(folder, *arguments, **environ)
    try:
        out, errors = await asyncio.wait_for(process.communicate(), patient(90))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), errors.decode()
