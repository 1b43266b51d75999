"""What tests of the rendered files share: settings for them, Prometheus's own tools, and its programs as processes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.support.patience import patient
from trunkline.settings.sections import Settings

DEADLINE_S = patient(30.0)
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager") or "alertmanager"


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips a test where one of these programs is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def monitor(**changes: Any) -> Settings:
    """Default settings with changes in [monitor]; `balancer__docker="…"` changes another section."""
    settings = Settings()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        section = section or "monitor"
        changed = msgspec.structs.replace(getattr(settings, section), **{name: value})
        settings = msgspec.structs.replace(settings, **{section: changed})
    return settings


def said(*command: str, code: int = 0) -> str:
    """What a program prints; it must end with `code`."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(60), check=False
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def laid_out(directory: Path, texts: dict[str, str]) -> Path:
    """The directory, with the files in it."""
    for path, text in texts.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    return directory


@contextlib.asynccontextmanager
async def process(log: Path, ready: str, *command: str) -> AsyncIterator[None]:
    """A program from when the URL `ready` answers 200 until the block is left."""
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as http:
            while True:
                assert child.returncode is None, log.read_text()
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(ready) as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.05)
        yield
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@contextlib.asynccontextmanager
async def prometheus(directory: Path, port: int) -> AsyncIterator[str]:
    """Prometheus with the files below `directory`; its address."""
    url = f"http://127.0.0.1:{port}"
    arguments = (
        f"--config.file={directory}/prometheus/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    async with process(directory / "prometheus.log", f"{url}/-/ready", "prometheus", *arguments):
        yield url


@contextlib.asynccontextmanager
async def alertmanager(file: Path, port: int) -> AsyncIterator[str]:
    """Alertmanager with a file; its address."""
    url = f"http://127.0.0.1:{port}"
    arguments = (
        f"--config.file={file}",
        f"--storage.path={file.parent}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    )
    async with process(file.parent / "alertmanager.log", f"{url}/-/ready", ALERTMANAGER, *arguments):
        yield url


async def answer(url: str, **query: str) -> Any:
    """The JSON of an address."""
    async with aiohttp.ClientSession() as http, http.get(url, params=query) as found:
        assert found.status == 200, await found.text()
        return await found.json()


async def series(prometheus_url: str, expression: str) -> list[dict[str, Any]]:
    """What an expression gives, once it gives anything."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await answer(f"{prometheus_url}/api/v1/query", query=expression)
            result: list[dict[str, Any]] = found["data"]["result"]
            if result:
                return result
            await asyncio.sleep(0.1)
