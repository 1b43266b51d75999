"""What the coordinator gets and returns: which workers do a run, how long it waits for them, what came out. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from trunkline.load.model.messages import ChannelEpoch, Hole
from trunkline.load.model.plan import Scenario, Target
from trunkline.load.model.report import Second
from trunkline.load.model.tally import Sum


class Patience(msgspec.Struct, frozen=True):
    """How long workers are waited for, in seconds."""

    ready_s: float = 60.0  # from the start of the processes until all are ready
    silent_s: float = 30.0  # between two messages of a worker while the run goes on
    sent_s: float = 30.0  # from the end of the stages, or from Stop, until its Sent
    done_s: float = 30.0  # for Done, beyond the longest settling
    offsets_s: float = 60.0


class AgentGroup(msgspec.Struct, frozen=True):
    """Agents on other machines, reached over NATS at `bus_url`; without names this machine generates."""

    names: tuple[str, ...] = ()
    bus_url: str = ""
    prefix: str = "trunkline"


class TokenSource(Protocol):
    """Where a token is renewed."""

    def renewed(self, now: float) -> str | None:
        """A token that was not there before, else None; `now` in seconds of any steady clock."""


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A run, and its workers on this machine or `workers_each` on each agent; other fields are as in `Job`."""

    run: str
    target: Target
    scenario: Scenario
    workers: int = 1
    agents: AgentGroup = AgentGroup()
    workers_each: int = 1
    seed: int = 0
    settle_s: float = 5.0
    flow_source: str = ""
    token_file: TokenSource | None = None  # where the target's token is renewed
    patience: Patience = Patience()

    @property
    def workers_in_all(self) -> int:
        """Processes here and on the agents."""
        return self.workers + len(self.agents.names) * self.workers_each


@dataclass
class Outcome:
    """What came out of a run."""

    sum: Sum
    seconds: list[Second]
    # Publications that may be missing; which of them exist, `offsets` says.
    holes: list[Hole] = field(default_factory=list)
    more_holes: int = 0  # holes that are not in `holes`
    # By channel and epoch: acknowledged publications in one of the holes.
    offsets: dict[ChannelEpoch, list[int]] = field(default_factory=dict)
    # Those that did not end in order; what they had not sent yet is not in the sum.
    missing_workers: tuple[int, ...] = ()
    interrupted: bool = False
    failures: list[str] = field(default_factory=list)  # sentences; with one of them a run has not passed
    # The last lines that workers on this machine printed: warnings, and the output of a user's flow.
    printed: list[str] = field(default_factory=list)
    # How long the stages went on, until the last worker that came to their end had sent everything.
    lasted_s: float = 0.0
    clock_error_s: float = 0.0  # how wrong times between two machines may be; 0 on one machine
