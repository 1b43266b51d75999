"""How a fleet shows itself: a table and a live status line on a terminal, plain lines elsewhere, JSON for machines.

Rules: output whose reader has gone never ends the fleet; text of children is never read as markup; rich is loaded for a
terminal alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Protocol, TextIO

import msgspec

from trunkline.fleet.status import Addresses, Event


class View(Protocol):
    """What shows a fleet to its audience."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def ready(self, addresses: Addresses) -> None:
        """Every node is ready."""

    def status(self, text: Callable[[], str]) -> None:
        """A second has passed; `text` makes the status line."""

    def close(self) -> None:
        """Nothing more is to come."""


def make_view(as_json: bool, out: TextIO | None = None) -> View:
    """The view that fits the output, by default standard output; with `as_json` one JSON object a line on any."""
    out = out or sys.stdout
    if as_json:
        return JsonView(out)
    # By these variables rich takes a pipe for a terminal.
    if out.isatty() or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"):
        from trunkline.fleet.view.terminal import terminal_view

        if (view := terminal_view(out)) is not None:
            return view
    return PlainView(out)


class _LineView:
    """Writes lines, and shows no status."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def status(self, text: Callable[[], str]) -> None:
        return

    def close(self) -> None:
        return

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._out.write(line + "\n")
            self._out.flush()


class PlainView(_LineView):
    """Lines of text: changes only, no line a second."""

    def event(self, event: Event) -> None:  # noqa: D102
        self._write(f"{event.part}: {event.text}" if event.part else event.text)

    def ready(self, addresses: Addresses) -> None:  # noqa: D102
        edge = addresses.edge
        pids = ", ".join(f"{name} {pid}" for name, pid in edge.pids.items())
        self._write(
            f"edge  {edge.kind}  page {edge.page}  WebSocket {edge.websocket}  balancer {edge.balancer}  pids {pids}"
        )
        for node in addresses.nodes:
            admin = f"  admin {node.admin}" if node.admin else ""
            self._write(f"{addresses.title(node)}  page {node.page}  WebSocket {node.websocket}{admin}  pid {node.pid}")
        self._write(f"nats  {addresses.nats}  pid {addresses.nats_pid}")
        if addresses.prometheus:
            self._write(f"prometheus  {addresses.prometheus}")
        self._write(f"logs  {addresses.logs}")


class JsonView(_LineView):
    """One JSON object a line: `event` and `addresses`, distinguished by `type`."""

    def event(self, event: Event) -> None:  # noqa: D102
        self._write(msgspec.json.encode(event).decode())

    def ready(self, addresses: Addresses) -> None:  # noqa: D102
        self._write(msgspec.json.encode(addresses).decode())
