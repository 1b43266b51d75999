"""A deploy as it is watched: renewed in place on a terminal, a line at each change and every few seconds elsewhere.

Rules: it writes to standard error, so that standard output carries the verdict alone; a closed pipe or terminal never
ends a deploy; text of nodes is never read as markup.
"""

from __future__ import annotations

import io
import sys
from typing import Final, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from trunkline.deploy.parts import Progress
from trunkline.deploy.view import words
from trunkline.deploy.view.alerts import Alert
from trunkline.load.output.formatting import clock, fit, plain
from trunkline.load.output.live import PatientStream

PLAIN_EVERY_S: Final = 5.0
LABEL: Final = 11
BAR: Final = 40

_STYLES: Final = {"past": "dim", "now": "bold cyan", "ahead": "dim italic"}
_BACK: Final = frozenset({"returning", "undoing", "stuck", "rolled_back", "refused"})


def make_live(out: TextIO | None = None, *, lines: bool = False) -> PlainLive | TerminalLive:
    """The view that fits the output, by default standard error; `lines` on a terminal too."""
    stream = cast(TextIO, PatientStream(out or sys.stderr))
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal and not lines:
        return TerminalLive(console)
    return PlainLive(console)


class LogLines(io.StringIO):
    """A stream whose lines are printed above what is renewed: written to the terminal they would break it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def isatty(self) -> bool:  # noqa: D102
        return True

    def write(self, text: str) -> int:  # noqa: D102
        self._console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
        return len(text)


class PlainLive:
    """Lines: each state, each note, alerts as they come and go, and while clients move how many are left.

    Attributes:
        log_lines: where log lines have to go, None where they may go anywhere.
    """

    log_lines: TextIO | None = None

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state = ""
        self._notes = 0
        self._shown_at = 0.0
        self._alerts: tuple[Alert, ...] = ()

    def progress(self, progress: Progress) -> None:
        """It has gone on."""
        at = clock(progress.at_s)
        if not self._state:
            self._print(words.headline(progress))
        for note in progress.notes[self._notes :]:
            self._print(f"{at} NOTE {note}")
        self._notes = len(progress.notes)
        if progress.state != self._state:
            self._state, self._shown_at = progress.state, progress.at_s
            self._print(f"{at} {progress.state}" + (f": {progress.why}" if progress.why else ""))
        elif progress.at_s >= self._shown_at + PLAIN_EVERY_S:
            self._shown_at = progress.at_s
            parts = [words.move_line(progress), words.colours_line(progress)]
            if witnesses := words.witness_line(progress):
                parts.append(f"witnesses {witnesses}")
            self._print("  ".join([f"{at} {progress.state}", *filter(None, parts)]))

    def alerts(self, firing: tuple[Alert, ...]) -> None:
        """These fire now."""
        if firing != self._alerts:
            self._alerts = firing
            self._print(f"ALERTS {words.alerts_line(firing) or 'none any more'}")

    def note(self, text: str) -> None:
        """A line of the command's own."""
        self._print(text)

    def close(self) -> None:
        """Nothing more is to come."""

    def _print(self, text: str) -> None:
        self._console.print(fit(plain(text), self._console.encoding), soft_wrap=True)


class TerminalLive:
    """States, a bar of clients left, both colours, witnesses and alerts, renewed in place; notes stay above it.

    Attributes:
        log_lines: where log lines have to go.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._notes = 0
        self._alerts: tuple[Alert, ...] = ()
        self.log_lines: TextIO | None = LogLines(console)
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stderr=False)
        self._live.start()

    def progress(self, progress: Progress) -> None:
        """It has gone on."""
        for text in progress.notes[self._notes :]:
            self._console.print(self._text(f"NOTE {text}", "yellow"))
        self._notes = len(progress.notes)
        self._live.update(Group(*self._rows(progress)), refresh=True)

    def alerts(self, firing: tuple[Alert, ...]) -> None:
        """These fire now; shown with the next progress."""
        self._alerts = firing

    def note(self, text: str) -> None:
        """A line of the command's own, above the rest."""
        self._console.print(self._text(text, ""))

    def close(self) -> None:
        """Nothing more is to come."""
        self._live.stop()

    def _rows(self, progress: Progress) -> list[RenderableType]:
        states = Text()
        for state, place in words.states(progress):
            style = "bold red" if place == "now" and state in _BACK else _STYLES[place]
            states.append(f"{state} ", style=style)
        rows: list[RenderableType] = [self._text(words.headline(progress), "bold"), states]
        rows.append(self._row("state", words.state_line(progress)))
        if progress.to_move is not None:
            rows.append(ProgressBar(total=1.0, completed=words.moved_share(progress), width=BAR))
            rows.append(self._row("moving", words.move_line(progress)))
        if colours := words.colours_line(progress):
            rows.append(self._row("clients", colours))
        if witnesses := words.witness_line(progress):
            rows.append(self._row("witnesses", witnesses, "bold red" if words.harmed(progress) else ""))
        if self._alerts:
            rows.append(self._row("alerts", words.alerts_line(self._alerts), "bold red"))
        return rows

    def _row(self, label: str, text: str, style: str = "") -> Text:
        return Text(overflow="fold").append(f"{label:<{LABEL}}", style="dim").append(self._text(text, style))

    def _text(self, text: str, style: str) -> Text:
        return Text(fit(plain(text), self._console.encoding), style=style, overflow="fold")
