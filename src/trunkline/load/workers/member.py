"""A worker as the coordinator sees it: a process somewhere, and how far it is in the run."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from trunkline.load.model.messages import Done, FromWorker, Position


class Worker(Protocol):
    """A worker process, wherever it is.

    Attributes:
        number: in the run, from 0.
        name: for messages.
        clock_offset_s: this machine's clock minus the worker's.
    """

    number: int
    name: str
    clock_offset_s: float

    async def send(self, message: msgspec.Struct) -> None:
        """Send it a message; raises BadMessage when it is too long, ChannelClosed when the worker is gone."""

    async def receive(self) -> FromWorker | None:
        """Its next message, None at the end; raises BadMessage, and ChannelClosed when messages were lost."""

    async def fate(self) -> str:
        """How it ended, in words; to be asked after the last message."""

    def kill(self) -> None:
        """End it at once."""

    async def close(self) -> None:
        """Let go of it, in order if it can."""


class Member:
    """A worker, and how far it is.

    Attributes:
        worker: the process.
        ready: it has said so.
        sent: it has come to the end of its stages.
        ends: where its channels ended, as far as it told.
        done: how it settled.
        told: it has told what it published.
        may_end: its end is no fault any more.
        lost: it has failed, or was given up.
        next_step: what the user can do about that, if it said so.
        heard_at: when its last message came, in seconds of `time.monotonic()`.
        reader: takes its messages.
    """

    def __init__(self, worker: Worker, now: float) -> None:
        self.worker = worker
        self.ready = False
        self.sent = False
        self.ends: dict[str, Position] = {}
        self.done: Done | None = None
        self.told = False
        self.may_end = False
        self.lost = False
        self.next_step = ""
        self.heard_at = now
        self.reader: asyncio.Task[None] | None = None
