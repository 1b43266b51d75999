"""A bare echo server for load generators: picows on uvloop, and nothing else that could be in their way.

Usage: python -m bench.bare_echo PORT [--processes N] [--stall S] [--every S]

Several processes share the port (SO_REUSEPORT): the kernel spreads connections over them evenly enough that four hold
50,000 within 20,000 files each. With `--stall` each process sleeps that long once in every `--every` seconds, on the
clock's own grid, so that all of them stall together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
import time

import picows
import uvloop

from bench.servers import Contender, Server

FILES = 20_000
BACKLOG = 4096


class _Echo(picows.WSListener):
    """One connection: what comes goes back."""

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is picows.WSMsgType.CLOSE:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


async def _serve(listening: socket.socket, parent: int | None, stall_s: float, every_s: float) -> None:
    server = await picows.ws_create_server(
        # A small buffer: thousands of connections wait here at once.
        lambda _: _Echo(), sock=listening, backlog=BACKLOG, read_buffer_init_size=1024,
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if parent is not None:
        loop.add_reader(parent, over.set)
    if stall_s:
        _stall(loop, stall_s, every_s)
    async with server:
        await over.wait()


def _stall(loop: asyncio.AbstractEventLoop, stall_s: float, every_s: float) -> None:
    def stop_the_world() -> None:
        time.sleep(stall_s)
        plan()

    def plan() -> None:
        loop.call_later(every_s - time.monotonic() % every_s, stop_the_world)

    plan()


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(BACKLOG)
    return listening


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare_echo")
    parser.add_argument("port", type=int)
    parser.add_argument("--processes", type=int, default=1, help="how many share the port (1)")
    parser.add_argument("--stall", type=float, default=0.0, metavar="S", help="seconds without life (0)")
    parser.add_argument("--every", type=float, default=10.0, metavar="S", help="from one stall to the next (10)")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    # All listen before any serves: a connection that came to fewer of them would not be spread.
    sockets = [_listen(arguments.port) for _ in range(arguments.processes)]
    # The end of a pipe whose other end the parent alone holds: it is ready when the parent has ended, however.
    ended, life = os.pipe()
    mine, parent = sockets[0], None
    children: list[int] = []
    for each in sockets[1:]:
        child = os.fork()
        if not child:
            os.close(life)
            mine, parent, children = each, ended, []
            break
        children.append(child)
    for each in sockets:
        if each is not mine:
            each.close()
    uvloop.run(_serve(mine, parent, arguments.stall, arguments.every))
    if parent is None:
        os.close(life)
    for child in children:
        os.waitpid(child, 0)


def bare_echo(*, processes: int = 1, stall_s: float = 0.0, every_s: float = 10.0) -> Server:
    """Start one as a child process.

    Args:
        processes: how many share its port.
        stall_s: how long each stands still, in every `every_s` seconds; 0: never.
        every_s: from the beginning of one stall to that of the next.
    """
    options = ["--processes", str(processes), "--stall", str(stall_s), "--every", str(every_s)]
    return Server(
        Contender(
            "bare echo",
            lambda port: [sys.executable, "-m", "bench.bare_echo", str(port), *options],
            last_signal=signal.SIGTERM,
        )
    )


if __name__ == "__main__":
    main()
