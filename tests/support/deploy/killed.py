"""Where a tool that drives a deploy dies by SIGKILL: at a write of its store, or at a removal of its runtime.

A write counts that changes the deploy: the state or the tool's record; renewals of the lease do not.
"""

from __future__ import annotations

import os
import signal
from typing import Literal

import msgspec

from trunkline.bus.base import Entry, FleetStore, OnEntry, Subscription
from trunkline.deploy.runtimes.base import Runtime, RuntimeNode, What
from trunkline.protocol.deploys import DEPLOY_KEY, DeployStatus

When = Literal["stored", "observed"]


class DiesAt(msgspec.Struct, frozen=True):
    """A point of a deploy.

    Attributes:
        write: the number of a write, from 1, of those in `state`; empty means any state.
        when: `stored` is right after that write, before anything is carried out; `observed` is once it was carried
            out, right before the next write.
        remove: instead, right before a colour is removed, or when it is gone.
    """

    write: int = 1
    state: str = ""
    when: When = "stored"
    remove: Literal["", "before", "after"] = ""


def die() -> None:
    """At once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingStore:
    """The fleet's store as a tool has it that dies at a write."""

    name = "dying"

    def __init__(self, store: FleetStore, at: DiesAt) -> None:
        self._store = store
        self._at = at
        self._known: tuple[str, bytes] | None = None
        self._writes = 0
        self._next_dies = False

    async def start(self) -> None:
        await self._store.start()

    async def close(self) -> None:
        await self._store.close()

    async def get(self, key: str) -> Entry | None:
        entry = await self._store.get(key)
        if key == DEPLOY_KEY and entry is not None and self._writes == 0:
            self._known = _content(entry.value)
        return entry

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        return await self._store.keys(prefix)

    async def put(self, key: str, value: bytes, expect: int | None) -> int:
        if key != DEPLOY_KEY or (content := _content(value)) == self._known:
            return await self._store.put(key, value, expect)
        if self._next_dies:
            die()
        revision = await self._store.put(key, value, expect)
        self._known = content
        self._writes += self._at.state in ("", content[0])
        if not self._at.remove and self._writes == self._at.write:
            if self._at.when == "stored":
                die()
            self._next_dies = True
        return revision

    async def delete(self, key: str, expect: int | None) -> None:
        await self._store.delete(key, expect)

    async def watch(self, prefix: str, on_entry: OnEntry) -> Subscription:
        return await self._store.watch(prefix, on_entry)


class DyingRuntime:
    """A runtime as a tool has it that dies when it removes a colour."""

    def __init__(self, runtime: Runtime, at: DiesAt) -> None:
        self._runtime = runtime
        self._at = at
        self.name = runtime.name

    @property
    def starts(self) -> bool:
        return self._runtime.starts

    async def check(self, colour: str, what: What) -> str:
        return await self._runtime.check(colour, what)

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        return await self._runtime.list(colour)

    async def ensure(self, colour: str, count: int, what: What) -> None:
        await self._runtime.ensure(colour, count, what)

    async def remove(self, colour: str) -> None:
        if self._at.remove == "before":
            die()
        await self._runtime.remove(colour)
        if self._at.remove == "after":
            die()

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        return await self._runtime.logs(node, lines)

    async def close(self) -> None:
        await self._runtime.close()


def _content(value: bytes) -> tuple[str, bytes]:
    status = msgspec.json.decode(value, type=DeployStatus)
    return status.state, bytes(status.record)
