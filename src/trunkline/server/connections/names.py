"""Random names for connections and sessions, unguessable, without a system call for each."""

from __future__ import annotations

import base64
import os
from typing import Final

_BYTES: Final = 24
_POOL: Final = 256 * _BYTES


class Names:
    """A pool of the system's randomness, each byte of which is used once."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def draw(self) -> str:
        """32 random characters of the URL-safe base64 alphabet: 192 bits."""
        if self._at == len(self._pool):
            self._pool = os.urandom(_POOL)
            self._at = 0
        self._at += _BYTES
        return base64.urlsafe_b64encode(self._pool[self._at - _BYTES : self._at]).decode()
