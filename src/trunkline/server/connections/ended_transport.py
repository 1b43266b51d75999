"""Stands in for a transport that has ended while what came before its end still waits for its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class EndedTransport(asyncio.Transport):
    """Takes what is written and sends nothing; when it is read from, closed or aborted, `lost` follows, once."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__()
        self._lost: Callable[[], None] | None = lost

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """There is nobody to send it to."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Everything before the end has been handled."""
        lost, self._lost = self._lost, None
        if lost is not None:
            asyncio.get_running_loop().call_soon(lost)

    def close(self) -> None:
        """See `resume_reading`."""
        self.resume_reading()

    def abort(self) -> None:
        """See `resume_reading`."""
        self.resume_reading()
