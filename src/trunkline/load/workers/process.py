"""A worker process: generates its part of the load, controlled through a pair of sockets.

    python -m trunkline.load.workers.process FD

Rules:

- It ends at once when the coordinator is gone: its counts would be lost, and the load would go on.
- A message out of order ends it; a fault is sent as `Failed`, its trace goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from trunkline.errors import StartError, TrunklineError
from trunkline.load.client.generator import Generator
from trunkline.load.model import messages
from trunkline.load.model.positions import in_pieces
from trunkline.load.model.tally import Beat
from trunkline.load.workers.pipe import TO_WORKER, BadMessage, ChannelClosed, Pipe
from trunkline.logs import configure as log_setup
from trunkline.process import lifecycle
from trunkline.process.bounds import end_tasks
from trunkline.settings.sections import LogSettings

T = TypeVar("T")
M = TypeVar("M", bound=messages.ToWorker)

GONE: Final = 3  # exit code of a worker whose coordinator is gone
_FAILED_S: Final = 2.0

MakeGenerator = Callable[[messages.Job, Callable[[Beat], None]], Generator]
"""Makes the generator of a job; the second argument takes beats."""


class _Gone(Exception):
    """The coordinator is gone."""


class _Conversation:
    """Both directions of the channel: Stop and NewToken are taken out of what comes, and messages go out in order."""

    def __init__(self, channel: Pipe[messages.ToWorker]) -> None:
        self._channel = channel
        self._come: asyncio.Queue[messages.ToWorker] = asyncio.Queue()
        self._out: asyncio.Queue[msgspec.Struct] = asyncio.Queue()
        self._over: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._talk())]
        self.stopped = False
        self.on_stop: Callable[[], None] = lambda: None
        self.on_token: Callable[[str], None] = lambda token: None

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, after those before it."""
        self._out.put_nowait(message)

    async def flush(self) -> None:
        """Wait until all is sent."""
        await self.unless_over(self._out.join())

    async def expect(self, kind: type[M]) -> M:
        """The next message, which must be of that kind."""
        message = await self.unless_over(self._come.get())
        if not isinstance(message, kind):
            raise BadMessage(f"a message {type(message).__name__} came where {kind.__name__} was due")
        return message

    async def unless_over(self, work: Awaitable[T]) -> T:
        """Do something for as long as the coordinator is there."""
        task = asyncio.ensure_future(work)
        ends: list[asyncio.Future[Any]] = [task, self._over]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise self._over.result()
        return task.result()

    async def close(self) -> None:
        """End both directions."""
        await end_tasks(self._tasks)

    async def _listen(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                if isinstance(message, messages.Stop):
                    self.stopped = True
                    self.on_stop()
                elif isinstance(message, messages.NewToken):
                    self.on_token(message.token)
                else:
                    self._come.put_nowait(message)
        except BadMessage as error:
            self._end(error)
        except ChannelClosed:
            pass
        self._end(_Gone())

    async def _talk(self) -> None:
        while True:
            message = await self._out.get()
            try:
                await self._channel.send(message)
            except BadMessage as error:
                self._end(error)
            except ChannelClosed:
                self._end(_Gone())
            self._out.task_done()

    def _end(self, why: Exception) -> None:
        if not self._over.done():
            self._over.set_result(why)


async def serve(channel: Pipe[messages.ToWorker], make_generator: MakeGenerator) -> int:
    """Do one run as a worker; returns the exit code: 0 when it was done, 1 when it failed, or `GONE`."""
    talk = _Conversation(channel)
    number = -1
    try:
        job = await talk.expect(messages.Job)
        number = job.worker
        await _run(job, talk, make_generator)
    except _Gone:
        return GONE
    except Exception as error:
        if isinstance(error, StartError):
            failed = messages.Failed(number, error.what[:1000], error.next_step[:1000])
        elif isinstance(error, TrunklineError):
            failed = messages.Failed(number, str(error)[:1000], "")
        else:
            traceback.print_exc()
            text = f"the generator failed: {type(error).__name__}: {error}"
            failed = messages.Failed(number, text[:1000], "The trace is the last that the worker printed.")
        # Not through the conversation, which may be what failed.
        with contextlib.suppress(TrunklineError, TimeoutError):
            async with asyncio.timeout(_FAILED_S):
                await channel.send(failed)
        return 1
    finally:
        await talk.close()
    return 0


async def _run(job: messages.Job, talk: _Conversation, make_generator: MakeGenerator) -> None:
    generator = make_generator(job, talk.send)
    max_open = await talk.unless_over(generator.prepare())
    lifecycle.spare_collector()
    talk.on_token = generator.take_token
    talk.send(messages.Ready(job.worker, max_open))
    begin = await talk.expect(messages.Begin)
    talk.on_stop = generator.stop
    if talk.stopped:
        generator.stop()
    sent = await talk.unless_over(generator.run(begin))
    for piece, more in in_pieces(sent.ends):
        talk.send(messages.Sent(job.worker, piece, more))
    settle = await talk.expect(messages.Settle)
    ends = dict(settle.ends)
    while settle.more:
        settle = await talk.expect(messages.Settle)
        ends |= settle.ends
    talk.send(await talk.unless_over(generator.settle(messages.Settle(ends))))
    await _send_offsets(job, talk, generator)


async def _send_offsets(job: messages.Job, talk: _Conversation, generator: Generator) -> None:
    request = await talk.expect(messages.SendOffsets)
    wanted = [*request.channels]
    while request.more:
        request = await talk.expect(messages.SendOffsets)
        wanted += request.channels
    for channel in wanted:
        for epoch, offsets in generator.offsets(channel).items():
            for first in range(0, len(offsets), messages.MAX_OFFSETS):
                talk.send(
                    messages.Offsets(job.worker, channel, epoch, tuple(offsets[first : first + messages.MAX_OFFSETS]))
                )
                await talk.flush()
    if wanted:
        talk.send(messages.Offsets(job.worker, "", "", (), last=True))
    await talk.flush()


def run_worker(descriptor: int, make_generator: MakeGenerator = Generator) -> int:
    """The whole life of a worker process; `descriptor` is its socket's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's, which sends Stop
    log_setup.configure(LogSettings(level="warning", format="console"), stream=sys.stderr)

    async def main() -> int:
        pipe = await Pipe.open(socket.socket(fileno=descriptor), TO_WORKER)
        code = await serve(pipe, make_generator)
        if code:
            # With thousands of connections and a job half done, an orderly end is of no use.
            sys.stderr.flush()
            os._exit(code)
        return code

    return lifecycle.run(main)


if __name__ == "__main__":
    raise SystemExit(run_worker(int(sys.argv[1])))
