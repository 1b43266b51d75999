"""Signals, the order in which a long-running command ends, and child processes.

The first SIGTERM or SIGINT begins an orderly stop, the second ends it at once. Both are futures, so a command awaits
them beside its own work and no handler runs application code. SIGHUP asks a server for a reload of its settings; when
the terminal that it was started from has gone, it means a stop, as for every program of that terminal.

A child has a session of its own, so that an interrupt on the terminal reaches the parent alone, which stops things in
order; and on Linux it dies with its parent, even when the parent is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from trunkline.process.bounds import end_tasks
from trunkline.process.hang_up import has_terminal, held
from trunkline.process.open_files import raise_limit

T = TypeVar("T")

LEFT_S: Final = 10.0
START_LEFT_S: Final = 5.0
"""Time that a start under way has to end once it is to stop: it may wait for something that is away."""

_PR_SET_PDEATHSIG: Final = 1
_CHUNK: Final = 65_536
_LAST_OUTPUT_S: Final = 1.0


class Signals:
    """Futures of the first and second SIGTERM or SIGINT; make it inside the running loop.

    Args:
        reloads: whether SIGHUP asks for a reload; it ends other programs.

    Attributes:
        reload: set by each request for a reload.
    """

    def __init__(self, *, reloads: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.second: asyncio.Future[None] = loop.create_future()
        self.reload = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)
        if reloads:
            # Who starts it with nohup wants it to outlive the terminal.
            outlives = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            self._terminal = not outlives and (held().terminal or has_terminal())
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
            if held().came:
                self._hung_up()

    def stop(self) -> None:
        """Begin an orderly stop, as the first signal does."""
        if not self.first.done():
            self.first.set_result(None)

    def _received(self) -> None:
        if not self.first.done():
            self.first.set_result(None)
        elif not self.second.done():
            self.second.set_result(None)

    def _hung_up(self) -> None:
        if self._terminal and not has_terminal():
            self.stop()
        else:
            self.reload.set()


async def started(signals: Signals, start: Coroutine[Any, Any, None], *, heeds_first: bool = False) -> bool:
    """Run `start`, which the second signal cancels; returns whether it has ended by itself, and raises what it raised.

    The first signal lets it go on for `START_LEFT_S`, for `serve_until_stopped` comes next, and stops at once; with
    `heeds_first` it cancels the start, which would end another process.
    """
    starting = asyncio.ensure_future(start)
    await asyncio.wait({starting, signals.first}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and not heeds_first:
        either: set[asyncio.Future[None]] = {starting, signals.second}
        await asyncio.wait(either, timeout=START_LEFT_S, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        return True
    await end_tasks([starting])
    return False


async def serve_until_stopped(
    signals: Signals,
    stop: Callable[[], Coroutine[Any, Any, None]],
    reload: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> None:
    """Wait for the first signal, then `stop`; the second one cancels it, which must still free everything.

    Until the first signal `reload` runs for each request; it must not raise.
    """
    reloading = asyncio.ensure_future(reload_when_asked(signals, reload)) if reload is not None else None
    await signals.first
    if reloading is not None:
        await end_tasks([reloading])
    stopping = asyncio.ensure_future(stop())
    # Two signals may have come by now: cancelled before its first step, it would free nothing.
    await asyncio.sleep(0)
    await asyncio.wait({stopping, signals.second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)


async def reload_when_asked(signals: Signals, reload: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run `reload`, which must not raise, for each request, until cancelled."""
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        await reload()


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine on uvloop, with all the open files that it may have.

    Returns what it returns, most often an exit code.
    What `main` leaves behind has `LEFT_S` seconds to end: the loop would wait for its tasks and threads without end.
    """
    raise_limit()
    ending = _Ending()

    async def command() -> T:
        try:
            ending.code = result = await main()
            return result
        finally:
            ending.begin()

    try:
        return uvloop.run(command())
    finally:
        ending.over()


class _Ending:
    """Ends the process when the loop does not: a thread may hang in a name look-up or on a disk."""

    def __init__(self) -> None:
        self.code: object = 1
        self._timer = threading.Timer(LEFT_S, self._end)
        self._timer.daemon = True

    def begin(self) -> None:
        self._timer.start()

    def over(self) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        print(f"trunkline: something did not end within {LEFT_S:g} s and is left behind", file=sys.stderr, flush=True)
        os._exit(self.code if isinstance(self.code, int) else 1)


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; where the system does not say, it is believed to have one."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return sys.platform != "linux"
    caught = next((line.partition(":")[2] for line in text.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def spare_collector() -> None:
    """Take what is loaded out of the garbage collector's sight, and let it run less often; once, when a server is up.

    Connections hold no circles of references, and a full pass over 10,000 of them would stall the loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """What a child does between fork and exec: have the kernel signal it when its parent ends; None if it cannot."""
    if sys.platform != "linux":
        return None
    # Loaded before the fork: between fork and exec as little as possible may happen.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()
    wanted = int(number)

    def request() -> None:
        prctl(_PR_SET_PDEATHSIG, wanted)
        if os.getppid() != parent:  # it ended before the request
            os._exit(1)

    return request


class Child:
    """A running child process whose output is read as it comes; made by `Child.start`."""

    def __init__(self, process: asyncio.subprocess.Process, on_output: Callable[[bytes, bool], None]) -> None:
        self._process = process
        self.pid = process.pid  # of its group too
        # Read from the first moment on: a full pipe would stop the child.
        self._readers = [
            asyncio.create_task(self._read(stream, on_output, is_error))
            for stream, is_error in ((process.stdout, False), (process.stderr, True))
            if stream is not None
        ]

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environ: Mapping[str, str],
        on_output: Callable[[bytes, bool], None],
        pass_fds: Sequence[int] = (),
        dies_by: signal.Signals = signal.SIGKILL,
    ) -> Child:
        """Start `command`; raises OSError when the program cannot be run.

        Args:
            command: program and arguments.
            environ: its whole environment.
            on_output: gets what it prints in chunks that need not end at a line, and whether it was standard error.
            pass_fds: open files that it gets under the same numbers.
            dies_by: the signal that it gets when its parent ends; other than SIGKILL only for a program that surely
                ends by it, since nothing would be left to end one that hangs in its orderly stop.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environ),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            preexec_fn=die_with_parent(dies_by),
        )
        return cls(process, on_output)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait until it has ended and its output was read; returns the exit code, negative for a signal."""
        code = await self._process.wait()
        if self._readers:
            # A process that it started may hold the pipes open without end.
            _, unread = await asyncio.wait(self._readers, timeout=_LAST_OUTPUT_S)
            for reader in unread:
                reader.cancel()
        return code

    def terminate(self) -> None:
        """Send SIGTERM for an orderly end."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def reload(self) -> bool:
        """Send SIGHUP, unless that would end it, as a program that does not handle it; returns whether it was sent."""
        if not self.running or not handles(self.pid, signal.SIGHUP):
            return False
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)
        return True

    def kill(self) -> None:
        """End it and whatever it started in its group."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    @staticmethod
    async def _read(stream: asyncio.StreamReader, on_output: Callable[[bytes, bool], None], is_error: bool) -> None:
        while chunk := await stream.read(_CHUNK):
            on_output(chunk, is_error)
