"""Runs nats-server and counts what is asked of JetStream; a child process of the benchmarks.

It prints the server's address, then for each line it reads one JSON object: how many requests came for each verb of the
JetStream API (`DIRECT.GET`, `STREAM.INFO`, ...) since its start. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.errors import BenchError
from bench.servers import HERE


async def main() -> None:
    import nats

    from trunkline.fleet.children.nats_server import NatsServer

    with tempfile.TemporaryDirectory() as directory:
        server = await NatsServer.start(Path(directory) / "store")
        client = await nats.connect(server.url)
        counts: collections.Counter[str] = collections.Counter()

        async def count(message: object) -> None:
            subject: str = message.subject  # type: ignore[attr-defined]
            counts[".".join(subject.split(".")[2:4])] += 1

        await client.subscribe("$JS.API.>", cb=count)
        await client.flush()
        try:
            print(server.url, flush=True)
            loop = asyncio.get_running_loop()
            while await loop.run_in_executor(None, sys.stdin.readline):
                # What was asked before this line was routed to us before the server answers the flush.
                await client.flush()
                print(json.dumps(counts), flush=True)
        finally:
            await client.close()
            await server.stop()


class NatsChild:
    """A running nats-server with its counter."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.nats_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent,
        )  # fmt: skip
        self.url = self._line()

    def _line(self) -> str:
        line = self._process.stdout.readline().strip() if self._process.stdout else ""
        if not line:
            self.stop()
            raise BenchError("nats-server could not be started; its words are above")
        return line

    def requests(self) -> dict[str, int]:
        """JetStream API requests so far, by verb."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._line())
        return counts

    def stop(self) -> None:
        """End it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> NatsChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    asyncio.run(main())
