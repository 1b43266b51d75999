"""A worker as the coordinator sees it: a process somewhere, and how far it is in the run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from trunkline.load.model.messages import Done, Position
from trunkline.load.workers.local import LocalWorker
from trunkline.load.workers.remote import RemoteWorker

Worker = LocalWorker | RemoteWorker


@dataclass(eq=False)
class Member:
    """A worker, and how far it is.

    Attributes:
        sent: it has come to the end of its stages.
        ends: where its channels ended, as far as it has sent them.
        sent_offsets: it has sent what it published.
        may_end: its end is no fault any more.
        lost: it has failed, or was given up.
        heard_at: when its last message came, in seconds of `time.monotonic()`.
    """

    worker: Worker
    heard_at: float
    ready: bool = False
    sent: bool = False
    ends: dict[str, Position] = field(default_factory=dict)
    done: Done | None = None
    sent_offsets: bool = False
    may_end: bool = False
    lost: bool = False
    next_step: str = ""
    reader: asyncio.Task[None] | None = None
