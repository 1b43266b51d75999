"""How a fleet shows itself: a table and a live status line on a terminal, plain lines elsewhere, JSON for machines.

Rules: NO_COLOR is honoured; output whose reader has gone never ends the fleet; text of children is never read as
markup.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Final, Protocol, TextIO

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trunkline.fleet.status import Addresses, Event

_STYLES: Final = {"log": "yellow", "ended": "bold red", "draining": "cyan", "state": "green"}


class View(Protocol):
    """What the fleet tells its audience."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def ready(self, addresses: Addresses) -> None:
        """Every node is ready."""

    def status(self, text: Callable[[], str]) -> None:
        """A second has passed; `text` makes the status line."""

    def close(self) -> None:
        """Nothing more is to come."""


def make_view(as_json: bool, out: TextIO | None = None) -> View:
    """The view that fits the output.

    Args:
        as_json: one JSON object a line, whatever the output is.
        out: where to write, standard output by default.
    """
    out = out or sys.stdout
    if as_json:
        return JsonView(out)
    console = _PatientConsole(file=out, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalView(console)
    return PlainView(console)


class _PatientConsole(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process here, and with it a fleet that serves people.
        self.quiet = True


class PlainView:
    """Lines of text: changes only, no line a second."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def event(self, event: Event) -> None:  # noqa: D102
        self._console.print(event_text(event), soft_wrap=True)

    def ready(self, addresses: Addresses) -> None:  # noqa: D102
        edge = addresses.edge
        self._console.print(
            f"edge  {edge.kind}  page {edge.page}  WebSocket {edge.websocket}  balancer {edge.balancer}", soft_wrap=True
        )
        for node in addresses.nodes:
            admin = f"  admin {node.admin}" if node.admin else ""
            self._console.print(f"{node.name}  page {node.page}  WebSocket {node.websocket}{admin}", soft_wrap=True)
        self._console.print(f"nats  {addresses.nats}", soft_wrap=True)
        if addresses.prometheus:
            self._console.print(f"prometheus  {addresses.prometheus}", soft_wrap=True)
        self._console.print(f"logs  {addresses.logs}", soft_wrap=True)

    def status(self, text: Callable[[], str]) -> None:  # noqa: D102
        return

    def close(self) -> None:  # noqa: D102
        return


class TerminalView:
    """A table once everything is ready, events above a status line that is renewed in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = Text("starting …", overflow="fold")
        self._live = Live(self._line, console=console, auto_refresh=False, transient=True, redirect_stderr=False)
        self._live.start()

    def event(self, event: Event) -> None:  # noqa: D102
        self._console.print(event_text(event))

    def ready(self, addresses: Addresses) -> None:  # noqa: D102
        self._console.print(addresses_table(addresses))
        self._console.print(f"Logs are in {addresses.logs}. Ctrl-C drains and stops the fleet.", soft_wrap=True)

    def status(self, text: Callable[[], str]) -> None:  # noqa: D102
        self._live.update(Text(text(), overflow="fold"), refresh=True)

    def close(self) -> None:  # noqa: D102
        self._live.stop()


class JsonView:
    """One JSON object a line: `event` and `addresses`, told apart by `type`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def event(self, event: Event) -> None:  # noqa: D102
        self._write(event)

    def ready(self, addresses: Addresses) -> None:  # noqa: D102
        self._write(addresses)

    def status(self, text: Callable[[], str]) -> None:  # noqa: D102
        return

    def close(self) -> None:  # noqa: D102
        return

    def _write(self, message: Event | Addresses) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._out.write(msgspec.json.encode(message).decode() + "\n")
            self._out.flush()


def event_text(event: Event) -> Text:
    """An event as a line."""
    prefix = f"{event.part}: " if event.part else ""
    return Text().append(prefix, style="bold").append(event.text, style=_STYLES.get(event.event, "none"))


def addresses_table(addresses: Addresses) -> Table:
    """Where everything is."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("part", "page", "WebSocket", "admin"):
        table.add_column(column, overflow="fold")
    edge = addresses.edge
    table.add_row(f"edge ({edge.kind})", edge.page, edge.websocket, edge.balancer)
    for node in addresses.nodes:
        table.add_row(node.name, node.page, node.websocket, node.admin or "off")
    table.add_row("nats", addresses.nats)
    if addresses.prometheus:
        table.add_row("prometheus", addresses.prometheus)
    return table
