"""The bearer token of an admin port: the one of the settings, else one that is made at the start.

That one is kept in a file that only this user can read, where the commands on this machine find it by the port. A user
who can write no such file has it in memory alone: nobody knows it, so the port serves nobody.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from trunkline.errors import StartError
from trunkline.process.user_dirs import private_dirs
from trunkline.process.whole_files import read_stripped, replace_file
from trunkline.settings.secret import Secret

NOT_KEPT_HINT: Final = "set admin.token or admin.token_file, or switch the port off"
"""What helps when no file can keep the token."""


class AdminToken:
    """The token of one admin port: that of the settings, of their file, or a new one.

    Attributes:
        unkept: why no file keeps the new one after `keep`, empty when one does or none is needed.

    Raises:
        StartError: the file of the settings cannot be read.
    """

    def __init__(self, port: int, token: Secret | None = None, token_file: Path | None = None) -> None:
        self._port = port
        self._kept: Path | None = None
        self._made = False
        self.unkept = ""
        if token is not None:
            self._token = token.reveal()
        elif token_file is not None:
            self._token = read_stripped(token_file, "admin.token_file")
            if not self._token:
                hint = "Write a token into it, or leave admin.token_file out."
                raise StartError(f"the admin token file {token_file} is empty", hint)
        else:
            self._token = secrets.token_urlsafe(24)
            self._made = True

    def keep(self) -> None:
        """Put a token that was made where the commands on this machine find it, in the place of any other one."""
        if self._made:
            self._kept, self.unkept = _keep(self._token, self._port)

    def allows(self, authorization: str | None) -> bool:
        """Whether an Authorization header carries it; takes the same time for every wrong one."""
        if authorization is None:
            return False
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._token.encode()
        )

    def reveal(self) -> str:
        """The token itself."""
        return self._token

    def forget(self) -> None:
        """Remove the file that was made for it, unless another process has put its own there."""
        if self._kept is not None:
            with contextlib.suppress(OSError):
                if self._kept.read_text().strip() == self._token:
                    self._kept.unlink()
            self._kept = None


def kept_token(port: int) -> str | None:
    """The token of the admin port on this machine, None when none is kept that this user can read."""
    for path in token_paths(port):
        with contextlib.suppress(OSError):
            return path.read_text().strip()
    return None


def kept_ports() -> set[int]:
    """Admin ports of this machine whose token is kept."""
    names = [path.stem[len("admin-") :] for folder in private_dirs() for path in folder.glob("admin-*.token")]
    return {int(name) for name in names if name.isdigit()}


def token_paths(port: int) -> list[Path]:
    """Where a token of the admin port may be kept, best place first."""
    return [folder / f"admin-{port}.token" for folder in private_dirs()]


def _keep(token: str, port: int) -> tuple[Path | None, str]:
    """Write it where the first directory lets us; returns the file and why there is none."""
    why = ""
    for path in token_paths(port):
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, token.encode())
        except OSError as error:
            why = why or f"{path}: {error.strerror}"
        else:
            return path, ""
    return None, why
