"""A list of objects that is kept as the API server has it, from a list and the events of a watch. Pure.

state     what comes                          then
--------  ----------------------------------  ---------------------------------------------------------------
listing   a page with a token                 listing: the next page is asked for
listing   the last page                       watching from its resource version
listing   410: the token is too old           listing, from the first page
watching  ADDED, MODIFIED, DELETED            watching from the resource version of the object
watching  BOOKMARK                            watching from its resource version; nothing has changed
watching  the stream ends or is cut           watching from where it was
watching  410, as a status or as an event     listing: the history is gone
watching  another ERROR event, no event       listing, because nobody knows what was missed

Rules:

- While a list is fetched again the objects stay as they were: they are replaced by the last page, all at once.
- What is half a line when a stream is cut was not received: the next watch brings it again.
- Lists ask for no resource version. They are then read consistently, and cannot lead back to an older state when
  another API server answers. `resourceVersion=0` would be cheaper for the server, and may be arbitrarily old.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

import msgspec

from trunkline.kubernetes.failures import ApiFailed, Request, failure_of
from trunkline.kubernetes.objects import KubernetesObject, Listed, Meta, Status, WatchEvent

MOST_BYTES: Final = 16 * 1024 * 1024
"""Longest line of a watch; etcd holds no object of a tenth of that."""

T = TypeVar("T", bound=KubernetesObject)


class _Positioned(msgspec.Struct):
    metadata: Meta


class _Bookmark(msgspec.Struct, rename="camel"):
    resource_version: str


class _Marked(msgspec.Struct):
    metadata: _Bookmark


class Mirror(Generic[T]):
    """The objects of one list by name.

    Args:
        kind: struct of an object.

    Attributes:
        position: resource version that a watch goes on from; empty while there has to be a list.
        page: token of the next page of the list, empty for the first.
    """

    def __init__(self, kind: type[T]) -> None:
        self._event = msgspec.json.Decoder(WatchEvent)
        self._object = msgspec.json.Decoder(kind)
        self._objects: dict[str, T] = {}
        self._pages: dict[str, T] = {}
        self._rest = b""
        self.position = ""
        self.page = ""

    @property
    def objects(self) -> Mapping[str, T]:
        """The objects as they were at `position`, or at the last position before a new list."""
        return self._objects

    def list_again(self) -> None:
        """What was missed is unknown: begin with a list."""
        self.position = self.page = ""
        self._rest = b""
        self._pages = {}

    def listed(self, page: Listed[T]) -> bool:
        """Take a page; whether it was the last one, so that `objects` are those of the list."""
        for item in page.items or ():
            self._pages[item.metadata.name] = item
        self.page = page.metadata.continues
        if self.page:
            return False
        self._objects, self._pages = self._pages, {}
        self.position = page.metadata.resource_version
        return True

    def watching(self) -> None:
        """A new watch has begun: half a line of the one before it is dropped."""
        self._rest = b""

    def received(self, chunk: bytes, request: Request) -> bool:
        """Take bytes of a watch; whether an object has changed.

        Raises:
            ApiFailed: an ERROR event, or something that is no event; the list begins again.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        changed = False
        try:
            if len(self._rest) > MOST_BYTES:
                raise ApiFailed(f"a line of {request} has more than {MOST_BYTES:,} bytes")
            for line in lines:
                if line.strip():
                    changed |= self._take(line, request)
        except ApiFailed:
            self.list_again()
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.list_again()
            raise ApiFailed(f"{request}: the API server sent what is no event: {error}") from None
        return changed

    def _take(self, line: bytes, request: Request) -> bool:
        event = self._event.decode(line)
        match event.type:
            case "ADDED" | "MODIFIED":
                found = self._object.decode(event.object)
                self._objects[found.metadata.name] = found
                self.position = found.metadata.resource_version
                return True
            case "DELETED":
                gone = msgspec.json.decode(event.object, type=_Positioned).metadata
                self.position = gone.resource_version
                return self._objects.pop(gone.name, None) is not None
            case "BOOKMARK":
                self.position = msgspec.json.decode(event.object, type=_Marked).metadata.resource_version
                return False
            case "ERROR":
                status = msgspec.json.decode(event.object, type=Status)
                raise failure_of(request, status.code, event.object)
        raise ApiFailed(f"{request}: the API server sent an event of the unknown type {event.type[:50]!r}")
