"""How answers of the daemon are read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiodocker import DockerError

Answer = TypeVar("Answer")


class Gone(Exception):
    """The daemon does not know it (any more)."""


@contextlib.asynccontextmanager
async def known(*also: int) -> AsyncIterator[None]:
    """Raises Gone for an answer 404, or one of `also`."""
    try:
        yield
    except DockerError as error:
        if error.status in (404, *also):
            raise Gone from None
        raise


def read(found: object, kind: type[Answer]) -> Answer:
    """An answer as a struct, by way of JSON: parts are handed on as the daemon wrote them."""
    return msgspec.json.decode(msgspec.json.encode(found), type=kind)
