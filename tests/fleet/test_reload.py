"""`trunkline serve --reload`: a saved source file starts the server again, and no end leaves a process behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientError, ClientSession

from tests.support.patience import patient

pytest.importorskip("watchfiles", reason="--reload needs the package watchfiles")

APP = "from trunkline import App\n\napp = App({name!r})\n"


async def instance(http: ClientSession, port: int, name: str) -> dict[str, Any]:
    """Wait until the server runs the app of this name."""
    async with asyncio.timeout(patient(30)):
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/api/instance") as answer:
                    found: dict[str, Any] = await answer.json()
                    if found["app"] == name:
                        return found
            except (ClientError, OSError):
                pass
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
async def test_a_saved_file_starts_the_server_again(tmp_path: Path, end: signal.Signals) -> None:
    """The new code is served by a new process on the same port, which ends with the one that watches the files."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    source = tmp_path / "live.py"
    source.write_text(APP.format(name="first"))
    command = ["serve", "live:app", "--reload", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "TRUNKLINE_ADMIN_PORT": "0"}
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline", *command), cwd=tmp_path, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with ClientSession() as http:
            before = await instance(http, port, "first")
            source.write_text(APP.format(name="second"))
            after = await instance(http, port, "second")
        assert after["pid"] != before["pid"]
        assert not psutil.pid_exists(before["pid"])
        server = psutil.Process(after["pid"])
    finally:
        parent.send_signal(end)
        await asyncio.wait_for(parent.wait(), patient(15))
    assert psutil.wait_procs([server], patient(5))[1] == []


async def test_a_mistake_in_a_file_is_waited_out(tmp_path: Path) -> None:
    """The server that cannot start says why, by the user's frames alone, and waits; the next save starts it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    source = tmp_path / "live.py"
    source.write_text("def broken(:\n")
    command = ["serve", "live:app", "--reload", "--host", "127.0.0.1", "--port", str(port)]
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline", *command), cwd=tmp_path, env={**os.environ, "TRUNKLINE_ADMIN_PORT": "0"},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert parent.stderr is not None
    lines: list[str] = []

    async def until(text: str) -> None:
        assert parent.stderr is not None
        while not lines or text not in lines[-1]:
            line = await asyncio.wait_for(parent.stderr.readline(), patient(30))
            assert line, lines
            lines.append(line.decode())

    try:
        await until("waiting for a file to change")
        assert "the server ended with exit code 2" in lines[-1]
        assert any("SyntaxError" in line for line in lines)
        assert [line for line in lines if "File " in line] == [f'  File "{source}", line 1\n']
        source.write_text(APP.format(name="mended"))
        await until(f"serving on http://127.0.0.1:{port}/")
        async with ClientSession() as http:
            await instance(http, port, "mended")
    finally:
        parent.send_signal(signal.SIGINT)
        await asyncio.wait_for(parent.wait(), patient(15))
