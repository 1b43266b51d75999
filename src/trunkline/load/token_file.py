"""The token of a run's clients, in a file that something else renews: read again and again while the run goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from trunkline.errors import SettingsError, StartError
from trunkline.process.whole_files import read_stripped

_OPTION: Final = "--token-file"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_EVERY_S: Final = 1.0


class TokenFile:
    """Reads the token, and notices a new one; `token` is the newest.

    Raises:
        StartError: the file cannot be read.
        SettingsError: it does not hold one token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = 0.0
        self.token = read_stripped(path, _OPTION)
        if not _TOKEN.fullmatch(self.token):
            raise SettingsError(_OPTION, value=str(path), allowed="the file must hold one token, and nothing else")

    def renewed(self, now: float) -> str | None:
        """A token that was not there before, else None; `now` in seconds of any steady clock, looked at once a second.

        A file that is being written, or has gone, says nothing: the token that was read last stays in use.
        """
        if now - self._read_at < _EVERY_S:
            return None
        self._read_at = now
        try:
            found = read_stripped(self._path, _OPTION)
        except StartError:
            return None
        if found == self.token or not _TOKEN.fullmatch(found):
            return None
        self.token = found
        return found
