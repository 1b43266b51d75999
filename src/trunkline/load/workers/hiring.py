"""How a coordinator hires workers of agents on other machines: requests over core NATS, as MessagePack. Pure.

| subject | sender | content |
|---|---|---|
| `<prefix>.load.<agent>.ask` | a coordinator | `Hail`, `Hire`, `Alive`, `Dismiss`; answers: `Here`, `Declined` |
| `<prefix>.load.<agent>.<run>.<worker>.to` | the coordinator | parcels for a worker |
| `<prefix>.load.<agent>.<run>.<worker>.from` | the agent | parcels of that worker |

An agent is one token of a subject; other characters than letters, digits, "_" and "-" are written as in a URL.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple
from urllib.parse import quote

import msgspec

MAX_ANSWER: Final = 16_384  # bytes of a request or of an answer
Run = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,32}$")]
WorkerNumber = Annotated[int, msgspec.Meta(ge=0, le=100_000)]


class Hail(msgspec.Struct, tag="hail", frozen=True):
    """Is the agent there, and what is its clock?"""


class Hire(msgspec.Struct, tag="hire", frozen=True):
    """Start these workers of a run; `version` is the coordinator's."""

    run: Run
    workers: Annotated[tuple[WorkerNumber, ...], msgspec.Meta(min_length=1, max_length=1000)]
    version: str


class Alive(msgspec.Struct, tag="alive", frozen=True):
    """The coordinator of this run is still there."""

    run: Run


class Dismiss(msgspec.Struct, tag="dismiss", frozen=True):
    """The run is over: end its workers."""

    run: Run


class Here(msgspec.Struct, tag="here", frozen=True):
    """The agent is there: its monotonic time in seconds, its version, and the run that it works for, if any."""

    clock: float
    version: str
    run: str = ""


class Declined(msgspec.Struct, tag="declined", frozen=True):
    """The agent refuses; `what` is the reason, `next_step` what the user can do."""

    what: str
    next_step: str


Ask = Hail | Hire | Alive | Dismiss
Answer = Here | Declined
ASK: Final[msgspec.msgpack.Decoder[Ask]] = msgspec.msgpack.Decoder(Ask)
ANSWER: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


class Subjects(NamedTuple):
    """The subjects of one agent."""

    prefix: str
    agent: str

    @property
    def ask(self) -> str:
        """Requests to the agent."""
        return f"{self._start}.ask"

    def to(self, run: str, worker: int) -> str:
        """Parcels for a worker."""
        return f"{self._start}.{run}.{worker}.to"

    def of(self, run: str, worker: int) -> str:
        """Parcels of a worker."""
        return f"{self._start}.{run}.{worker}.from"

    @property
    def _start(self) -> str:
        token = quote(self.agent, safe="").replace(".", "%2E").replace("~", "%7E")
        return f"{self.prefix}.load.{token}"
