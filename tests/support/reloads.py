"""Has a running command read its settings again, as an operator does, and waits for what it says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.balancer.balance_process import Command


class Reloads:
    """A command with a settings file, and what it says to each SIGHUP."""

    def __init__(self, command: Command, file: Path) -> None:
        self.command = command
        self.file = file

    async def __call__(self, text: str | None) -> dict[str, Any]:
        """Write the file (None: delete it), have it read, and return how that ended."""
        if text is None:
            self.file.unlink()
        else:
            self.file.write_text(text)
        known = len(self.command.said)
        self.command.process.send_signal(signal.SIGHUP)
        return await self.command.hear(self._newer(known, "settings_reloaded", "settings_reload_refused"))

    async def hear(self, event: str) -> dict[str, Any]:
        """The last line of an event."""
        await self.command.hear(lambda line: line["event"] == event)
        return [line for line in self.command.said if line["event"] == event][-1]

    def _newer(self, known: int, *events: str) -> Callable[[dict[str, Any]], bool]:
        older = {id(line) for line in self.command.said[:known]}
        return lambda line: id(line) not in older and line["event"] in events
