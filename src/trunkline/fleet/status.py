"""What is known of a running fleet, and how it is shown in one line.

Pure. The fleet writes into `PartStatus`, views read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

State = Literal["starting", "up", "draining", "silent", "down", "stopped"]
"""`silent`: the process runs and does not answer. `down`: it ended and will be started again."""

SHOWN_ONE_BY_ONE: Final = 6
SILENT_AFTER: Final = 3

EventName = Literal["note", "log", "state", "ended", "draining", "stopped"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="event"):
    """Something that happened in the fleet.

    Attributes:
        event: what kind: `note` and `log` are text for people, the others mark a change.
        part: the part it is about, empty for the whole fleet.
        text: a sentence.
        exit_code: of a part that ended, negative for a signal.
    """

    event: EventName
    part: str
    text: str
    exit_code: int | None = None


class NodeAddresses(msgspec.Struct, frozen=True):
    """Where one node is, and its process id."""

    name: str
    page: str
    websocket: str
    admin: str
    log: str
    pid: int
    colour: str = ""


class EdgeAddresses(msgspec.Struct, frozen=True):
    """Where clients come in: a relay or a Traefik. `page` is that of a node, `balancer` the balancer's own."""

    kind: str
    page: str
    websocket: str
    balancer: str
    log: str
    pids: dict[str, int]


class Addresses(msgspec.Struct, frozen=True, tag_field="type", tag="addresses"):
    """Where everything is once the fleet is ready, and again when other nodes are there than before."""

    edge: EdgeAddresses
    nodes: list[NodeAddresses]
    nats: str
    nats_pid: int
    logs: str
    prometheus: str = ""

    def title(self, node: NodeAddresses) -> str:
        """How a node is called for people: with its colour where there are several."""
        return f"{node.name} ({node.colour})" if len({each.colour for each in self.nodes}) > 1 else node.name


class Sample(msgspec.Struct, frozen=True):
    """What one node reported at one time: state, connections, messages received and sent since its start.

    `problem` is why its bus does not store publications, empty when it does.
    """

    state: State
    connections: int
    messages: int
    problem: str = ""


class PartStatus:
    """One part as the fleet sees it now; `messages_per_s` counts both directions, over the last two samples.

    `colour` is that of a node, empty for other parts.
    """

    def __init__(self, name: str, colour: str = "") -> None:
        self.name = name
        self.colour = colour
        self.state: State = "starting"
        self.connections = 0
        self.messages_per_s = 0.0
        self.problem = ""
        self._last: tuple[float, int] | None = None
        self._unanswered = 0

    def enter(self, state: State) -> None:
        """Its process was started, became ready, or ended: what was counted is no longer true."""
        self.state = state
        self._unanswered = 0
        if state in ("starting", "down", "stopped"):
            self.connections = 0
            self.messages_per_s = 0.0
            self.problem = ""
            self._last = None

    def observe(self, sample: Sample | None, now: float) -> State | None:
        """Take what the node reported, None when it did not answer; returns the new state when it has changed.

        `now` is in seconds on any steady clock.
        """
        before = self.state
        if sample is None:
            self._unanswered += 1
            if self._unanswered >= SILENT_AFTER and before in ("up", "draining"):
                self.state = "silent"
                self.messages_per_s = 0.0
        else:
            self._unanswered = 0
            self.state = sample.state
            self.connections = sample.connections
            self.problem = sample.problem
            if self._last is not None and now > self._last[0]:
                # A smaller count is that of a new process.
                self.messages_per_s = max(sample.messages - self._last[1], 0) / (now - self._last[0])
            self._last = (now, sample.messages)
        return self.state if self.state != before else None


def short(number: float) -> str:
    """A count in few characters: 950, 3.2k, 1.5M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def clients(parts: Sequence[PartStatus]) -> int:
    """How many clients the fleet has."""
    return sum(part.connections for part in parts)


def draining_text(count: int) -> str:
    """What is shown while the fleet drains."""
    return f"draining, {count:,} client{'' if count == 1 else 's'} left; Ctrl-C again ends at once"


def status_text(nodes: Sequence[PartStatus], others: Sequence[PartStatus], draining: bool) -> str:
    """The status line; `others` serve no clients of their own: balancer, Traefik, NATS."""
    colours = list(dict.fromkeys(node.colour for node in nodes))
    pieces = []
    for colour in colours:
        own = [node for node in nodes if node.colour == colour]
        shown = f"{colour or 'no colour'}: " if len(colours) > 1 else ""
        if len(nodes) <= SHOWN_ONE_BY_ONE:
            pieces += [f"{shown if node is own[0] else ''}{_node_text(node)}" for node in own]
        else:
            up = sum(node.state == "up" for node in own)
            rate = sum(node.messages_per_s for node in own)
            pieces.append(f"{shown}{up} of {len(own)} nodes up  {short(clients(own))} conn  {short(rate)} msg/s")
    if len(nodes) > SHOWN_ONE_BY_ONE:
        problems = sorted({node.problem for node in nodes if node.problem})
        pieces += [f"DOES NOT STORE: {problem}" for problem in problems[:1]]
        pieces += [f"{node.name} {node.state}" for node in nodes if node.state != "up"][:SHOWN_ONE_BY_ONE]
    pieces += [f"{part.name} {part.state}" for part in others]
    if draining:
        pieces.insert(0, draining_text(clients(nodes)))
    return "  │  ".join(pieces)


def _node_text(node: PartStatus) -> str:
    if node.state in ("up", "draining"):
        text = f"{node.name} {node.state}  {short(node.connections)} conn  {short(node.messages_per_s)} msg/s"
        return f"{text}  DOES NOT STORE: {node.problem}" if node.problem else text
    return f"{node.name} {node.state}"
