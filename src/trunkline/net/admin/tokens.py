"""The bearer tokens of an admin port: those of the settings and, without one that may do everything, one made here.

Rules:

- `admin.token` or `admin.token_file` may do everything, `admin.tokens` what their scopes say. A file may hold two
  tokens, one a line: both count, so that a token is changed without a moment in which its users are refused.
- A token that is made is kept in a file that only this user can read, where the commands on this machine find it. A
  user who can write no such file has it in memory alone: nobody knows it, so it serves nobody.
- New settings are read whole before they replace the old (`read_tokens`, then `replace`): what cannot be read changes
  nothing.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trunkline.errors import StartError
from trunkline.net.admin.holders import Holder, Holders
from trunkline.net.admin.kept import TokenFile
from trunkline.process.whole_files import read_stripped
from trunkline.settings.admin import SCOPES, SHORTEST_TOKEN, AdminSettings, Scope
from trunkline.settings.secret import Secret

NOT_KEPT_HINT: Final = "set admin.token or admin.token_file, or switch the port off"
"""What helps when no file can keep the token."""

MOST_IN_FILE: Final = 2
"""The token that counts, and the one before or after it."""


def read_tokens(settings: AdminSettings) -> tuple[Holder, ...]:
    """The tokens that the settings and the files they name have, those that may do everything first.

    Raises:
        StartError: a file cannot be read or holds no token, more than two, or one too short; or one token is there
            twice. No text of a file is in it.
    """
    found: list[Holder] = []
    if settings.token is not None:
        found.append(Holder("admin.token", SCOPES, settings.token))
    if settings.token_file is not None:
        found += _in_file("admin.token_file", SCOPES, settings.token_file, "admin.token_file")
    for index, entry in enumerate(settings.tokens):
        if entry.token is not None:
            found.append(Holder(entry.name, entry.scopes, entry.token))
        if entry.file is not None:
            found += _in_file(entry.name, entry.scopes, entry.file, f"admin.tokens[{index}].file")
    names: dict[str, str] = {}
    for holder in found:
        other = names.setdefault(holder.secret.reveal(), holder.name)
        if other != holder.name:
            hint = "Give each its own: one token has one set of scopes."
            raise StartError(f"the admin tokens of {other} and {holder.name} are the same", hint)
    return tuple(found)


def token_for_all(settings: AdminSettings) -> str:
    """The token of the settings that may do everything, empty for none; raises StartError as `read_tokens` does."""
    if settings.token is not None:
        return settings.token.reveal()
    if settings.token_file is not None:
        return _in_file("admin.token_file", SCOPES, settings.token_file, "admin.token_file")[0].secret.reveal()
    return ""


def token_for(settings: AdminSettings, *scopes: Scope) -> str:
    """The first token of `admin.tokens` that has these scopes and that this user can read, empty for none."""
    for entry in settings.tokens:
        if set(scopes) <= set(entry.scopes):
            with contextlib.suppress(StartError):
                return read_tokens(AdminSettings(tokens=(entry,)))[0].secret.reveal()
    return ""


def _in_file(name: str, scopes: tuple[Scope, ...], path: Path, setting: str) -> list[Holder]:
    lines = (line.strip() for line in read_stripped(path, setting).splitlines())
    tokens = [line for line in lines if line]
    hint = f"Write one token into it, of {SHORTEST_TOKEN} characters or more; two, one a line, while it is changed."
    if not tokens:
        raise StartError(f"the admin token file {path} is empty", hint)
    if len(tokens) > MOST_IN_FILE:
        raise StartError(f"the admin token file {path} holds {len(tokens)} tokens", hint)
    if any(len(token) < SHORTEST_TOKEN for token in tokens):
        raise StartError(f"the admin token file {path} holds a token that is too short", hint)
    return [Holder(name, scopes, Secret(token)) for token in tokens]


class AdminTokens:
    """The tokens of one admin port.

    Args:
        port: of the admin port.
        given: those of the settings, see `read_tokens`.

    Attributes:
        unkept: why nobody has a token of this port after `keep`, empty when somebody has.
    """

    def __init__(self, port: int, given: Sequence[Holder]) -> None:
        self._file = TokenFile(port)
        self._made: Holder | None = None
        self._served = False
        self.unkept = ""
        self._take(given)

    def of(self, authorization: str | None) -> Holder | None:
        """Who sent an Authorization header, None for nobody known."""
        return self._holders.of(authorization)

    def reveal(self) -> str:
        """A token that may do everything."""
        return self._whole.secret.reveal() if self._whole is not None else ""

    def keep(self) -> None:
        """Put a token that was made where the commands on this machine find it, in the place of any other one."""
        self._served = True
        if self._made is not None:
            why = self._file.keep(self._made.secret.reveal())
            self.unkept = "" if self._given else why

    def forget(self) -> None:
        """Take it away from there."""
        self._served = False
        self._file.forget()

    def replace(self, given: Sequence[Holder]) -> None:
        """Take the tokens of new settings in the place of the old, from the next request on; see `read_tokens`."""
        before = self._made
        self._take(given)
        if self._made is None:
            self._file.forget()
        elif self._served and before is None:
            self.keep()

    def _take(self, given: Sequence[Holder]) -> None:
        whole = next((holder for holder in given if set(holder.scopes) == set(SCOPES)), None)
        if whole is not None:
            self._made = None
        elif self._made is None:
            self._made = Holder("this machine", SCOPES, Secret(secrets.token_urlsafe(24)))
        self._given = given
        self._whole: Holder | None = whole or self._made
        self._holders = Holders(given if self._made is None else (*given, self._made))
