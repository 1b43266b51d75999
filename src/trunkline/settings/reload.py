"""Reload: a running process reads its settings again and takes over what it can, while its connections stay.

Rules:

- All or nothing. The settings are read, checked and prepared (keys and certificates loaded, rules compiled) before the
  first of them counts; whatever cannot be used leaves everything as it is, and the log says why.
- Files that settings name are read again too, whether or not their names changed: that is how keys and certificates
  rotate.
- `serve --reload`, which restarts a node for its developer, is another thing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec
import structlog

from trunkline.errors import SettingsError, SettingsErrors, StartError
from trunkline.settings.reading.check import together
from trunkline.settings.reloaded import Change, ReloadRecord, change
from trunkline.settings.sections import Settings

TakeOver: TypeAlias = Callable[[], None]
Prepare: TypeAlias = Callable[[Settings], Awaitable[TakeOver]]
"""Makes ready whatever the settings need; raises SettingsError or StartError. What it returns must not fail."""

log: Final = structlog.get_logger("trunkline.settings")


class Outcome(msgspec.Struct, frozen=True):
    """What became of a reload.

    Attributes:
        taken: full names of the settings whose values changed and count now.
        restart: of those whose new values take a restart.
        refused: why all settings stay as they were, empty for a reload that succeeded.
    """

    taken: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    refused: str = ""


class Reload:
    """Reloads the settings of this process.

    Args:
        running: those that it was started with.
        read: reads them again, from where they came from.
        sections: those that this process reads.
        prepare: of its parts.
        record: gets how each reload ended.
    """

    def __init__(
        self,
        running: Settings,
        read: Callable[[], Settings],
        sections: Sequence[str],
        prepare: Prepare,
        record: ReloadRecord,
    ) -> None:
        self._running = running
        self._read = read
        self._sections = sections
        self._prepare = prepare
        self._record = record
        self._one = asyncio.Lock()

    async def __call__(self) -> Outcome:
        """Reload them once; never raises for settings that cannot be used."""
        async with self._one:
            try:
                found = await self._reload()
            except (SettingsError, StartError) as error:
                return self._refused(str(error))
            except Exception as error:
                log.exception("settings_reload_failed")
                return self._refused(f"a fault of this program: {type(error).__name__}; the log has its trace")
        self._record.succeeded = True
        self._record.succeeded_at = time.time()
        log.info("settings_reloaded", changed=found.taken)
        if found.restart:
            text = ", ".join(f"{key}: restart" for key in found.restart)
            log.warning("settings_need_restart", text=text)
        return Outcome(found.taken, found.restart)

    async def _reload(self) -> Change:
        # A disk may hang, and the connections must not hang with it.
        wanted = await asyncio.to_thread(self._read)
        found = change(self._running, wanted, self._sections)
        # Each file is sound by itself, and with values that stay until a restart it need not be.
        if errors := list(together(found.settings)):
            raise errors[0] if len(errors) == 1 else SettingsErrors(errors)
        take_over = await self._prepare(found.settings)
        take_over()
        self._running = found.settings
        return found

    def _refused(self, why: str) -> Outcome:
        self._record.succeeded = False
        log.error(
            "settings_reload_refused", text=why, next_step="all settings stay as they were; correct them, then reload"
        )
        return Outcome(refused=why)
