"""A run as it is watched: renewed in place once a second on a terminal, a line every five seconds elsewhere.

Rules: it writes to standard error, so that standard output carries the result alone; a closed pipe or terminal never
ends the run; texts of servers and of scenario files are never read as markup; it starts no thread and no timer.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trunkline.load.model.histogram import Counts, Quantiles, quantiles
from trunkline.load.model.tally import Totals
from trunkline.load.output.formatting import (
    Quantile,
    clock,
    count,
    counted,
    fit,
    milliseconds,
    octets,
    per_second,
    percent,
    plain,
    quantile,
    seconds,
    significant,
)

if TYPE_CHECKING:
    from trunkline.load.model.plan import Scenario
    from trunkline.load.model.report import Second, ServerSample
    from trunkline.load.model.tally import Sum

PLAIN_EVERY_S: Final = 5.0
BUSY_CPU: Final = 0.9
LATE_MS: Final = 10.0
_WIDE: Final = 100
_LABEL: Final = 13
_SHOWN: Final[tuple[Quantile, ...]] = ("p50", "p95", "p99")
_SHORT: Final = 23  # a longer phase has a line of its own, because the bar needs the room


def make_live(as_json: bool, out: TextIO | None = None) -> PlainLive | TerminalLive:
    """The view that fits the output, by default standard error; lines when a machine reads the result."""
    stream = cast(TextIO, PatientStream(out or sys.stderr))
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal and not as_json:
        return TerminalLive(console)
    return PlainLive(console)


class PatientStream:
    """A stream that drops what cannot be written: Rich would end the process, whose report is still wanted."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __getattr__(self, name: str) -> object:
        return getattr(self._out, name)

    def write(self, text: str) -> int:  # noqa: D102
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:  # noqa: D102
        with contextlib.suppress(OSError, ValueError):
            self._out.flush()


class PlainLive:
    """A line every five seconds of the run and at each change of stage, about the time since the line before."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: str | None = None
        self._shown_s = 0.0
        self._since = Totals()
        self._connect: Counts = {}
        self._message: Counts = {}

    def begin(self, scenario: Scenario, target_shown: str, workers: int, agents: Sequence[str]) -> None:
        """The run begins; `target_shown` is the URL without anything secret."""
        self._print(f"{headline(scenario, target_shown, workers, agents)}, {seconds(scenario.duration_s)}")

    def second(self, second: Second, so_far: Sum, /) -> None:
        """A second has passed; `so_far` holds it already, and goes on growing."""
        self._since.add(second.totals)
        if second.stage == self._stage and second.at_s < self._shown_s + PLAIN_EVERY_S:
            return
        lasted = max(second.at_s - self._shown_s, 0.001)
        connect, message = so_far.latencies["connect"], so_far.message
        messages = quantiles(_newer(message, self._message))
        parts = [
            f"{clock(second.at_s)} {plain(second.stage)}".rstrip(),
            f"open {count(second.open)}/{count(second.target)}",
            f"opened {per_second(self._since.opened / lasted)}",
            f"sent {per_second(self._since.sent / lasted)}",
            f"received {per_second(self._since.received / lasted)}",
            f"connect p95 {quantile(quantiles(_newer(connect, self._connect)), 'p95')}",
            "message " + " ".join(f"{name} {quantile(messages, name)}" for name in _SHOWN),
            f"errors {count(so_far.totals.wrong)}",
            f"findings {count(so_far.totals.misdelivered)}",
            f"generator {percent(second.generator_cpu)}",
        ]
        if (server := second.server) is not None:
            parts.append(f"servers {significant(server.cpu_percent)} % {octets(server.memory_bytes)}")
        self._stage, self._shown_s, self._since = second.stage, second.at_s, Totals()
        self._connect, self._message = dict(connect), message
        self._print("  ".join(parts))

    def phase(self, text: str) -> None:
        """What is done now, shown in place of the stage; empty: the stage again."""
        if text:
            self._print(plain(text))

    def note(self, text: str) -> None:
        """A warning that cannot wait for the end."""
        self._print(f"WARNING: {plain(text)}")

    def close(self) -> None:
        """The run is over."""

    def _print(self, text: str) -> None:
        self._console.print(fit(text, self._console.encoding), soft_wrap=True)


class TerminalLive:
    """The state of the run, renewed in place; notes stay above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._headline = ""
        self._total_s = 0.0
        self._phase = ""
        self._last: tuple[Second, Totals, Quantiles, Quantiles] | None = None

    def begin(self, scenario: Scenario, target_shown: str, workers: int, agents: Sequence[str]) -> None:  # noqa: D102
        self._headline = headline(scenario, target_shown, workers, agents)
        self._total_s = scenario.duration_s
        self._phase = "starting"
        self._live.start()
        self._refresh()

    def second(self, second: Second, so_far: Sum, /) -> None:  # noqa: D102
        if self._last is None:
            self._phase = ""
        # Computed now: the sums go on growing, and a resized terminal draws this again.
        totals = Totals()
        totals.add(so_far.totals)
        self._last = second, totals, quantiles(so_far.latencies["connect"]), quantiles(so_far.message)
        self._refresh()

    def phase(self, text: str) -> None:  # noqa: D102
        self._phase = plain(text)
        self._refresh()

    def note(self, text: str) -> None:  # noqa: D102
        self._console.print(Text(fit(f"WARNING: {plain(text)}", self._console.encoding), "bold yellow"))

    def close(self) -> None:  # noqa: D102
        self._live.stop()

    def _refresh(self) -> None:
        if self._live.is_started:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        head = self._text(self._headline, "bold")
        if self._last is None:
            return Group(head, self._progress(0.0, self._phase))
        second, totals, connect, message = self._last
        ours = Table.grid(padding=(0, 1, 0, 0))
        ours.add_column(width=_LABEL, style="bold")
        ours.add_column()
        ours.add_row("connections", self._text(f"{count(second.open)} open of {count(second.target)}"))
        ours.add_row("this second", self._text(_traffic(second.totals)))
        ours.add_row("so far", self._text(_traffic(totals)))
        ours.add_row("errors", self._wrong(totals))
        ours.add_row("findings", self._found(totals))
        ours.add_row("generator", self._generator(second))
        ours.add_row("servers", self._servers(second.server))
        latencies = _latency_table(second, connect, message)
        parts: list[RenderableType] = [head]
        if len(self._phase) <= _SHORT:
            parts.append(self._progress(second.at_s, self._phase or plain(second.stage)))
        else:
            parts += [self._progress(second.at_s, plain(second.stage)), self._text(self._phase, "cyan")]
        if self._console.width >= _WIDE:
            beside = Table.grid(padding=(0, 4, 0, 0))
            beside.add_row(ours, latencies)
            parts.append(beside)
        else:
            parts += [ours, latencies]
        return Group(*parts)

    def _text(self, text: str, style: str = "") -> Text:
        # Folded, not cut: an ellipsis is a character that not every terminal has.
        return Text(fit(text, self._console.encoding), style, overflow="fold")

    def _progress(self, at_s: float, stage: str) -> Table:
        row = Table.grid(padding=(0, 1, 0, 0), expand=True)
        row.add_column(max_width=_SHORT)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        # Rich's own colours of a bar are those of an error.
        bar = ProgressBar(
            total=max(self._total_s, 0.001), completed=min(at_s, self._total_s),
            complete_style="cyan", finished_style="green",
        )  # fmt: skip
        row.add_row(self._text(stage or "running", "cyan"), bar, f"{clock(at_s)} / {clock(self._total_s)}")
        return row

    def _wrong(self, totals: Totals) -> Text:
        if not totals.wrong:
            return self._text("none", "green")
        parts = {
            "not connected": totals.failed, "ended by the other side": totals.unplanned, "refused": totals.refused,
            "unanswered": totals.unanswered, "other": totals.errors,
        }  # fmt: skip
        return self._text(", ".join(f"{count(number)} {name}" for name, number in parts.items() if number), "red")

    def _found(self, totals: Totals) -> Text:
        text = (
            f"{count(totals.lost)} lost, {counted(totals.duplicates, 'duplicate')}, {count(totals.reordered)} reordered"
            if totals.misdelivered
            else "none"
        )
        for what, times in (("corrupt", totals.corrupt), ("crossed", totals.crossed)):
            text += f", {count(times)} {what}" if times else ""
        if totals.dropped:
            text += f"; {count(totals.dropped)} dropped with a gap"
        return self._text(text, "bold red" if totals.misdelivered else "green")

    def _generator(self, second: Second) -> Text:
        limit = second.generator_cpu >= BUSY_CPU or second.lag_max > LATE_MS
        text = f"CPU {percent(second.generator_cpu)}, lag {milliseconds(second.lag_max)}"
        return self._text(text + (": it is the limit" if limit else ""), "bold yellow" if limit else "")

    def _servers(self, server: ServerSample | None) -> Text:
        if server is None:
            return self._text("unseen", "dim")
        text = (
            f"{count(server.servers)} with {counted(server.connections, 'connection')}, "
            f"CPU {significant(server.cpu_percent)} %, {octets(server.memory_bytes)}"
        )
        return self._text(text + (f", {count(server.draining)} draining" if server.draining else ""))


LiveView = PlainLive | TerminalLive


def headline(scenario: Scenario, target_shown: str, workers: int, agents: Sequence[str]) -> str:
    """What is run, where to and by how many."""
    by = counted(workers, "process", "processes")
    if agents:
        by += f" on {counted(len(agents), 'machine')}"
    return f"{plain(scenario.name)} to {plain(target_shown)}: {counted(scenario.peak, 'connection')}, {by}"


def _traffic(totals: Totals) -> str:
    return f"{count(totals.opened)} opened, {count(totals.sent)} sent, {count(totals.received)} received"


def _newer(counts: Counts, old: Counts) -> Counts:
    return {us: more for us, times in counts.items() if (more := times - old.get(us, 0)) > 0}


def _latency_table(second: Second, connect: Quantiles, message: Quantiles) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("latency", no_wrap=True)
    for name in _SHOWN:
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    rows = {
        "connect, this second": second.connect, "connect, so far": connect,
        "message, this second": second.message, "message, so far": message,
    }  # fmt: skip
    for label, latency in rows.items():
        table.add_row(label, *(quantile(latency, name) for name in _SHOWN))
    return table
