"""SIGHUP as an operator sends it: the settings file is read again, and a terminal that has gone still means a stop."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from tests.support.balancer.balance_process import Command
from tests.support.environment import environment
from tests.support.patience import patient
from tests.support.reloads import Reloads
from tests.support.server.raw_peer import RawPeer, upgrade

pytestmark = pytest.mark.process

PAGE = "https://app.example.org"


async def started(tmp_path: Path, file: Path) -> Reloads:
    """A node that is up."""
    command = await Command.start(tmp_path, "serve", "--host", "127.0.0.1", "--port", "0", TRUNKLINE_ADMIN_PORT="0")
    return Reloads(await command.ready("node_up"), file)


async def handshake(port: int, origin: str = PAGE) -> int:
    """The status of a handshake of a page."""
    peer = await RawPeer.connect(port)
    await peer.send(upgrade("/ws", {"Origin": origin}))
    status = (await peer.answer()).status
    peer.close()
    return status


async def test_a_node_reads_its_file_again(tmp_path: Path) -> None:
    """Origins and log level count at once, the port takes a restart, and the client that is there stays."""
    file = tmp_path / "trunkline.toml"
    file.write_text("")
    node = await started(tmp_path, file)
    port = node.command.port
    client = await RawPeer.open(port)
    assert await handshake(port) == 403
    text = f'[server]\nport = 9\norigins = ["{PAGE}"]\necho = false\nchat = false\n[log]\nlevel = "debug"\n'
    done = await node(text)
    # The port is given by a flag, which the file does not change.
    assert done["changed"] == ["server.origins", "log.level"]
    assert (await node.hear("settings_need_restart"))["text"] == "server.echo: restart, server.chat: restart"
    assert await handshake(port) == 101
    await client.say({"type": "subscribe", "channels": ["no.such"]})
    assert (await client.skip_to("error"))["code"] == "FORBIDDEN"
    assert (await node.hear("request_refused"))["level"] == "debug"
    assert await node.command.stop() == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[server]\norigins = ["no origin"]\n', "server.origins"),
        ("[server]\norigin = []\n", "did you mean server.origins?"),
        ("[server", "not valid TOML"),
        ('[auth]\nalgorithms = ["HS256"]\nsecret_file = "nowhere"\n', "auth.secret_file"),
        (None, "the file cannot be read"),
    ],
)
async def test_a_bad_file_changes_nothing(tmp_path: Path, text: str | None, why: str) -> None:
    """The log names what is wrong, every setting stays, and the next good file counts."""
    file = tmp_path / "trunkline.toml"
    file.write_text(good := f'[server]\norigins = ["{PAGE}"]\n')
    node = await started(tmp_path, file)
    refused = await node(text)
    assert (refused["event"], refused["level"]) == ("settings_reload_refused", "error")
    assert why in refused["text"]
    assert await handshake(node.command.port) == 101
    assert (await node(good + "message_bytes = 200\n"))["event"] == "settings_reloaded"
    assert await node.command.stop() == 0


class OnTerminal:
    """`trunkline serve` in a session of its own, on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.terminal: int | None = terminal
        self.said = ""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(terminal, self._read, terminal)

    @classmethod
    async def start(cls, tmp_path: Path, *before: str) -> OnTerminal:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *before, sys.executable, "-c", _TAKES_TERMINAL, "serve", "--host", "127.0.0.1", "--port", "0",
            cwd=tmp_path, env=environment(tmp_path, TRUNKLINE_LOG_FORMAT="json", TRUNKLINE_ADMIN_PORT="0"),
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            # The tests may have been started with nohup.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip
        os.close(theirs)
        found = cls(process, ours)
        await found.hear("serving on")
        return found

    async def hear(self, text: str) -> None:
        async with asyncio.timeout(patient(10)):
            while text not in self.said:
                self._news.clear()
                await self._news.wait()

    def hang_up(self) -> None:
        """Close the terminal."""
        if self.terminal is not None:
            asyncio.get_running_loop().remove_reader(self.terminal)
            os.close(self.terminal)
            self.terminal = None

    def _read(self, terminal: int) -> None:
        try:
            self.said += os.read(terminal, 65_536).decode()
        except OSError:
            asyncio.get_running_loop().remove_reader(terminal)
        self._news.set()


_TAKES_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from trunkline.cli import main
main()
"""


async def test_a_terminal_that_closes_stops_what_was_started_from_it(tmp_path: Path) -> None:
    """The kernel sends the same signal then; a server that took it for a reload would run on, out of sight."""
    node = await OnTerminal.start(tmp_path)
    node.process.send_signal(signal.SIGHUP)
    await node.hear("settings_reloaded")
    node.hang_up()
    assert await asyncio.wait_for(node.process.wait(), patient(10)) == 0


async def test_with_nohup_it_outlives_its_terminal(tmp_path: Path) -> None:
    """And still reloads."""
    file = tmp_path / "trunkline.toml"
    file.write_text(f'[log]\ndirectory = "{tmp_path}/logs"\n')
    node = await OnTerminal.start(tmp_path, "sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    node.hang_up()
    port = next(int(part.partition(":")[2].strip(" }")) for part in node.said.split(",") if '"port"' in part)
    assert await handshake(port) == 403
    file.write_text(file.read_text() + f'[server]\norigins = ["{PAGE}"]\n')
    node.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(patient(10)):
        while await handshake(port) != 101:
            await asyncio.sleep(0.05)
    node.process.terminate()
    assert await asyncio.wait_for(node.process.wait(), patient(10)) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_node_is_up_without_a_reader_of_its_greeting(tmp_path: Path) -> None:
    """Where standard error cannot be written, as on a terminal that was closed while it started."""
    with open("/dev/full", "wb") as full:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", "serve", "--host", "127.0.0.1", "--port", "0", cwd=tmp_path,
            env=environment(tmp_path, TRUNKLINE_LOG_FORMAT="json", TRUNKLINE_ADMIN_PORT="0"),
            stdout=asyncio.subprocess.PIPE, stderr=full,
        )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(patient(10)):
        while (line := json.loads(await process.stdout.readline()))["event"] != "node_up":
            pass
    assert await handshake(line["port"]) == 403
    process.terminate()
    out, _ = await asyncio.wait_for(process.communicate(), patient(10))
    assert process.returncode in (0, 120), out  # Python's own for output that it could not write at the end
