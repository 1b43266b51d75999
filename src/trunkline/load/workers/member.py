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
    """A worker, and how far it is."""

    worker: Worker
    heard_at: float  # when its last message came, in seconds of `time.monotonic()`
    ready: bool = False
    sent: bool = False  # it has come to the end of its stages
    ends: dict[str, Position] = field(default_factory=dict)  # where its channels ended, as far as it has sent them
    done: Done | None = None
    sent_offsets: bool = False  # it has sent what it published
    may_end: bool = False  # its end is no fault any more
    lost: bool = False  # it has failed, or was given up
    next_step: str = ""
    reader: asyncio.Task[None] | None = None
