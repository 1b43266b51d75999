"""Unix sockets between processes of one user: nobody else can reach them.

Rules:

- A socket is made in a directory of this user that nobody else may write, and is open to this user alone. Each end
  checks whose process the other one is, where the system reports it (SO_PEERCRED): the mode of a file holds for its
  path, not for a process that got a descriptor some other way.
- Where a caller names the directory, others may write it: the mode and the checks at both ends have to do.
- It takes its name in one step, so that a name always leads to a socket that answers, or to none. At the end the name
  goes unless another process has taken it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trunkline.process.user_dirs import private_dirs

_LONGEST: Final = 100
"""Bytes of a path that every system takes for a socket."""

_CREDENTIALS: Final = struct.Struct("3i")


class PrivateSocket:
    """A Unix socket of this user that listens, non-blocking.

    Args:
        name: of its file, in the first directory of this user that can be used.
        folder: the directory to use instead, which has to be there.

    Attributes:
        path: where it is.

    Raises:
        OSError: no directory can be used.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        if folder is not None:
            self._listen(folder, name)
            return
        found = OSError("there is no directory of this user")
        for folder in private_dirs():
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                check_private(folder)
                self._listen(folder, name)
            except OSError as error:
                found = error
            else:
                return
        raise found

    def _listen(self, folder: Path, name: str) -> None:
        self.sock = _listening(folder, name)
        self.path = folder / name
        self._inode = self.path.stat().st_ino

    def close(self) -> None:
        """Listen no more, and free the name."""
        self.sock.close()
        self.forget()

    def forget(self) -> None:
        """Free the name; whoever has the socket still listens."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


def forget_dead(pattern: str) -> None:
    """Remove the names that match `pattern` on which nobody listens: their processes were killed.

    Only for names that no process takes again, such as those with its number.
    """
    for folder in private_dirs():
        for found in folder.glob(pattern):
            with contextlib.suppress(OSError), contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
                sock.setblocking(False)
                try:
                    with _short(folder, found.name) as path:
                        sock.connect(path)
                except ConnectionRefusedError:
                    found.unlink()


def connect(name: str, timeout_s: float) -> socket.socket | None:
    """A connection to the process of this user that listens under `name`, None when there is none; blocking."""
    for folder in private_dirs():
        with contextlib.suppress(OSError):
            check_private(folder)
            return connect_in(folder, name, timeout_s)
    return None


def connect_in(folder: Path, name: str, timeout_s: float) -> socket.socket:
    """A connection to the process of this user that listens there; raises OSError when there is none; blocking."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        with _short(folder, name) as path:
            sock.connect(path)
        if not is_own(sock):
            raise PermissionError(f"the process that listens at {folder / name} is another user's")
    except OSError:
        sock.close()
        raise
    return sock


def is_own(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket is one of this user."""
    if sys.platform != "linux":
        # The mode of the file has to do.
        return True
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return bool(uid == os.geteuid())


def check_private(folder: Path) -> None:
    """Raise OSError for a directory that is another user's, or that others may write."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")


def _listening(folder: Path, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = f".{secrets.token_hex(4)}"
    try:
        with _short(folder, fresh) as path:
            sock.bind(path)
        # Nobody can connect before it listens.
        (folder / fresh).chmod(0o600)
        sock.listen(16)
        sock.setblocking(False)
        (folder / fresh).rename(folder / name)
    except OSError:
        sock.close()
        with contextlib.suppress(OSError):
            (folder / fresh).unlink()
        raise
    return sock


@contextlib.contextmanager
def _short(folder: Path, name: str) -> Iterator[str]:
    """A path of that file which is short enough for a socket's address."""
    path = str(folder / name)
    if len(os.fsencode(path)) <= _LONGEST or sys.platform != "linux":
        yield path
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
