"""The bearer token of an admin port: the one of the settings, else one that is made at the start.

That one is kept in a file that only this user can read, where the commands on this machine find it by the port.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from trunkline.errors import StartError
from trunkline.process.whole_files import read_stripped, replace_file
from trunkline.settings.secret import Secret


class AdminToken:
    """The token of one admin port: that of the settings, of their file, or a new one.

    Raises:
        StartError: the file cannot be read, or the new token cannot be kept.
    """

    def __init__(self, port: int, token: Secret | None = None, token_file: Path | None = None) -> None:
        self._kept: Path | None = None
        if token is not None:
            self._token = token.reveal()
        elif token_file is not None:
            self._token = read_stripped(token_file, "admin.token_file")
            if not self._token:
                hint = "Write a token into it, or leave admin.token_file out."
                raise StartError(f"the admin token file {token_file} is empty", hint)
        else:
            self._token, self._kept = _keep_token(port)

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
        """Remove the file that was made for it."""
        if self._kept is not None:
            with contextlib.suppress(OSError):
                self._kept.unlink()
            self._kept = None


def token_path(port: int) -> Path:
    """Where the token of the admin port on this machine is kept when the settings name none."""
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "trunkline" / f"admin-{port}.token"


def kept_ports() -> set[int]:
    """Admin ports of this machine whose token is kept."""
    names = [path.name[len("admin-") : -len(".token")] for path in token_path(0).parent.glob("admin-*.token")]
    return {int(name) for name in names if name.isdigit()}


def _keep_token(port: int) -> tuple[str, Path]:
    path = token_path(port)
    token = secrets.token_urlsafe(24)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, token.encode())
    except OSError as error:
        raise StartError(
            f"cannot keep the admin token in {path}: {error.strerror}",
            "Set admin.token or admin.token_file, or switch the admin port off with admin.port = 0.",
        ) from None
    return token, path
