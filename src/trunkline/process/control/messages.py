"""Messages between `trunkline up` and a command that starts or stops its nodes, over its control socket. Pure.

One request, one answer: each a JSON object with its `kind`, framed as `framing` does it. An older `up` answers
`Refusal` to what it does not know.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

CONTROL_SOCKET: Final = "control.sock"
"""Name of the socket in `up.data_dir`."""

LONGEST: Final = 1 << 20
"""Bytes of a message."""


Colour = Annotated[
    str,
    # As `server.colour` has it, and shorter: nodes are called by it and a number. It is part of the name of a file.
    msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,58}\Z"),
]


class FindPlaces(msgspec.Struct, frozen=True, tag_field="kind", tag="places"):
    """Where bus, balancer and edge of the fleet are; answered with `Places`."""


class FindApp(msgspec.Struct, frozen=True, tag_field="kind", tag="find_app"):
    """Whether nodes could find an application, looked for where `up` runs and without importing it.

    Answered with `Finding`; `app` and `python` as in `EnsureNodes`.
    """

    app: str = ""
    python: str = ""


class ListNodes(msgspec.Struct, frozen=True, tag_field="kind", tag="list"):
    """Which nodes there are, of one colour or (empty) of all; answered with `Nodes`."""

    colour: str = ""


class EnsureNodes(msgspec.Struct, frozen=True, tag_field="kind", tag="ensure"):
    """Run `count` nodes of a colour: those that are missing are started. Answered with `Nodes` once they were started.

    A node that was given up, because it ended again and again before it was ready, is not missing: it is there until
    the colour is removed.

    Attributes:
        app: application as module:attribute, empty for that of the fleet.
        python: the interpreter that has this release installed, empty for that of `up`.
        version: what they report as `server.version`.
    """

    colour: Colour
    count: Annotated[int, msgspec.Meta(ge=1, le=64)]
    app: str = ""
    python: str = ""
    version: str = ""


class RemoveNodes(msgspec.Struct, frozen=True, tag_field="kind", tag="remove"):
    """Stop all nodes of a colour, each in order; answered with `Nodes`, empty, once their processes are gone."""

    colour: Colour


class NodeLog(msgspec.Struct, frozen=True, tag_field="kind", tag="log"):
    """The last lines that a node wrote, also of one that has ended; answered with `LogLines`."""

    name: str
    lines: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 20


ControlRequest = FindPlaces | FindApp | ListNodes | EnsureNodes | RemoveNodes | NodeLog


class NodeProcess(msgspec.Struct, frozen=True):
    """One node that `up` runs.

    Attributes:
        state: as `up` shows it: `starting`, `up`, `draining`, `silent`, `down`, `stopped`; the last one is for good.
        pid: 0 while it has no process.
        failures: times that its process has ended by itself since it was asked for.
        why: of the last of these, what it reported.
    """

    name: str
    colour: str
    state: str
    pid: int
    url: str
    admin_url: str
    failures: int = 0
    why: str = ""


class Nodes(msgspec.Struct, frozen=True, tag_field="kind", tag="nodes"):
    """The nodes asked for."""

    nodes: tuple[NodeProcess, ...]


class Places(msgspec.Struct, frozen=True, tag_field="kind", tag="places_are"):
    """Where the parts are that serve all colours.

    Attributes:
        bus: address of NATS.
        balancer: the balancer's admin port.
        edge: where clients connect.
        edge_kind: what stands there, `relay` or `traefik`.
        alertmanager: host and port of the Alertmanager beside it, empty for none.
    """

    bus: str
    balancer: str
    edge: str
    edge_kind: str
    alertmanager: str = ""


class Finding(msgspec.Struct, frozen=True, tag_field="kind", tag="finding"):
    """Why an application cannot be found, empty when it can."""

    why: str


class LogLines(msgspec.Struct, frozen=True, tag_field="kind", tag="log_lines"):
    """The end of a node's log."""

    lines: tuple[str, ...]


class Refusal(msgspec.Struct, frozen=True, tag_field="kind", tag="refusal"):
    """Why a request was not carried out, and what to do."""

    why: str
    next_step: str = ""


ControlAnswer = Places | Finding | Nodes | LogLines | Refusal
