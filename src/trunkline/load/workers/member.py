"""A worker as the coordinator sees it: a process somewhere, and how far it is in the run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from trunkline.load.model.messages import Done, FromWorker, Position


class Worker(Protocol):
    """A worker process, wherever it is; `clock_offset_s` is this machine's clock minus the worker's."""

    number: int
    name: str
    clock_offset_s: float

    async def send(self, message: msgspec.Struct) -> None:
        """Send it a message; raises BadMessage when it is too long, ChannelClosed when the worker is gone."""

    async def receive(self) -> FromWorker | None:
        """Its next message, None at the end; raises BadMessage, and ChannelClosed when messages were lost."""

    async def fate(self) -> str:
        """How it ended; to be called after its last message."""

    def kill(self) -> None:
        """End it at once."""

    async def close(self) -> None:
        """Let it end in order, if it can."""


@dataclass(eq=False)
class Member:
    """A worker, and how far it is.

    Attributes:
        sent: it has come to the end of its stages.
        ends: where its channels ended, as far as it has sent them.
        told: it has sent what it published.
        may_end: its end is no fault any more.
        lost: it has failed, or was given up.
        next_step: what the user can do about that, if it is known.
        heard_at: when its last message came, in seconds of `time.monotonic()`.
        reader: takes its messages.
    """

    worker: Worker
    heard_at: float
    ready: bool = False
    sent: bool = False
    ends: dict[str, Position] = field(default_factory=dict)
    done: Done | None = None
    told: bool = False
    may_end: bool = False
    lost: bool = False
    next_step: str = ""
    reader: asyncio.Task[None] | None = None
