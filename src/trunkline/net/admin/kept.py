"""Where an admin port keeps a token that it made: a file that only this user can read, found by the port."""

from __future__ import annotations

import contextlib
from pathlib import Path

from trunkline.process.user_dirs import private_dirs
from trunkline.process.whole_files import replace_file


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


class TokenFile:
    """The file of one admin port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._path: Path | None = None
        self._token = ""

    def keep(self, token: str) -> str:
        """Write it where the first directory lets us, in the place of any other one; returns why no file has it."""
        why = ""
        for path in token_paths(self._port):
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                replace_file(path, token.encode())
            except OSError as error:
                why = why or f"{path}: {error.strerror}"
            else:
                self._path, self._token = path, token
                return ""
        return why

    def forget(self) -> None:
        """Remove it, unless another process has put its own there."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.read_text().strip() == self._token:
                    self._path.unlink()
            self._path = None
