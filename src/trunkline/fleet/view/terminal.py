"""A fleet on a terminal, by rich: a table of addresses, and events above a status line that is renewed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trunkline.fleet.status import Addresses, Event

_STYLES: Final = {"log": "yellow", "ended": "bold red", "draining": "cyan", "state": "green"}


def terminal_view(out: TextIO) -> TerminalView | None:
    """The view of a terminal that can move its cursor; None for anything else. NO_COLOR is honoured."""
    console = _PatientConsole(file=out, highlight=False, markup=False, emoji=False)
    return TerminalView(console) if console.is_terminal and not console.is_dumb_terminal else None


class _PatientConsole(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process here, and with it a fleet that serves people.
        self.quiet = True


class TerminalView:
    """Shows it on a console of rich."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = Text("starting …", overflow="fold")
        self._live = Live(self._line, console=console, auto_refresh=False, transient=True, redirect_stderr=False)
        self._live.start()

    def event(self, event: Event) -> None:  # noqa: D102
        prefix = f"{event.part}: " if event.part else ""
        style = _STYLES.get(event.event, "none")
        self._console.print(Text().append(prefix, style="bold").append(event.text, style=style))

    def ready(self, addresses: Addresses) -> None:  # noqa: D102
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        for column in ("part", "pid", "page", "WebSocket", "admin"):
            table.add_column(column, overflow="fold")
        edge = addresses.edge
        pids = " ".join(map(str, edge.pids.values()))
        table.add_row(f"edge ({edge.kind})", pids, edge.page, edge.websocket, edge.balancer)
        for node in addresses.nodes:
            table.add_row(addresses.title(node), str(node.pid), node.page, node.websocket, node.admin or "off")
        table.add_row("nats", str(addresses.nats_pid), addresses.nats)
        if addresses.prometheus:
            table.add_row("prometheus", "", addresses.prometheus)
        self._console.print(table)
        self._console.print(f"Logs are in {addresses.logs}. Ctrl-C drains and stops the fleet.", soft_wrap=True)

    def status(self, text: Callable[[], str]) -> None:  # noqa: D102
        self._live.update(Text(text(), overflow="fold"), refresh=True)

    def close(self) -> None:  # noqa: D102
        self._live.stop()
