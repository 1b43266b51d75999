"""What an API server keeps: objects, one counter of resource versions, and the history that watches are served from.

As the real one does it:

- Every write takes the next resource version, whatever the kind of the object.
- A watch from a version gets what has happened since; an object that leaves its selector is DELETED for it.
- `compact` forgets the history: watches from before it, and page tokens from before it, are answered with 410.
- A page of a list is as things were when its first page was read.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from typing import Any, NamedTuple

Object = dict[str, Any]
Key = tuple[str, str, str]


class TooOld(Exception):
    """The history has been compacted since."""


class TooLarge(Exception):
    """A resource version that does not exist yet."""


class Missing(Exception):
    """There is no such object."""


class Write(NamedTuple):
    """One entry of the history; `before` and `after` are None for an object that was not there, or no longer is."""

    version: int
    plural: str
    namespace: str
    before: Object | None
    after: Object | None


class Store:
    """Objects by plural, namespace and name."""

    def __init__(self) -> None:
        self.version = 100
        self.compacted = 100
        self._objects: dict[Key, Object] = {}
        self._history: list[Write] = []
        self._pages: dict[int, list[Object]] = {}

    def get(self, plural: str, namespace: str, name: str) -> Object:
        try:
            return copy.deepcopy(self._objects[plural, namespace, name])
        except KeyError:
            raise Missing(name) from None

    def all(self, plural: str, namespace: str, labels: str = "") -> list[Object]:
        """In the order of their names, as etcd has them."""
        found = [each for key, each in sorted(self._objects.items()) if key[:2] == (plural, namespace)]
        return copy.deepcopy([each for each in found if matches(each, labels)])

    def put(self, plural: str, namespace: str, given: Object) -> Object:
        """Create or replace; a write that changes nothing takes no version."""
        found = copy.deepcopy(given)
        meta = found.setdefault("metadata", {})
        meta["namespace"] = namespace
        key = (plural, namespace, meta["name"])
        before = self._objects.get(key)
        old = before["metadata"] if before is not None else {}
        meta["uid"] = old.get("uid") or meta.get("uid") or str(uuid.uuid4())
        meta["resourceVersion"] = old.get("resourceVersion", "")
        if "spec" in found:
            changed = before is None or before.get("spec") != found["spec"]
            meta["generation"] = old.get("generation", 0) + int(changed)
        if found != before:
            self._write(key, before, found)
        return copy.deepcopy(found)

    def delete(self, plural: str, namespace: str, name: str) -> None:
        key = (plural, namespace, name)
        before = self._objects.pop(key, None)
        if before is None:
            raise Missing(name)
        self._next(key, before, None)

    def _write(self, key: Key, before: Object | None, after: Object) -> None:
        self._objects[key] = after
        self._next(key, before, after)

    def _next(self, key: Key, before: Object | None, after: Object | None) -> None:
        self.version += 1
        if after is not None:
            after["metadata"]["resourceVersion"] = str(self.version)
        self._history.append(Write(self.version, key[0], key[1], before, after))

    def compact(self) -> None:
        """Forget the history so far."""
        self.compacted = self.version
        self._history.clear()
        self._pages.clear()

    def restore(self, version: int) -> None:
        """Go back to an old copy, which has no objects."""
        self._objects.clear()
        self._history.clear()
        self._pages.clear()
        self.version = self.compacted = version

    def page(self, plural: str, namespace: str, labels: str, limit: int, token: str) -> Object:
        """A list, or a page of one, as the API answers it; raises TooOld for a token from before a compaction."""
        if token:
            version, begin = json.loads(token)
            if version not in self._pages:
                raise TooOld(f"The provided continue parameter is too old: {version} ({self.compacted})")
            found = self._pages[version]
        else:
            version, begin, found = self.version, 0, self.all(plural, namespace, labels)
        meta: Object = {"resourceVersion": str(version)}
        end = begin + limit if limit else len(found)
        if end < len(found):
            self._pages[version] = found
            meta |= {"continue": json.dumps([version, end]), "remainingItemCount": len(found) - end}
        return {"metadata": meta, "items": found[begin:end] or None}

    def since(self, version: int, plural: str, namespace: str, labels: str) -> tuple[list[Object], int]:
        """The events after a version, and the version that they lead to; raises TooOld or TooLarge."""
        if version < self.compacted:
            raise TooOld(f"too old resource version: {version} ({self.compacted})")
        if version > self.version:
            raise TooLarge(f"Too large resource version: {version}, current: {self.version}")
        events = []
        for write in self._history:
            if write.version > version and (write.plural, write.namespace) == (plural, namespace):
                event = _event(write, labels)
                if event is not None:
                    events.append(event)
        return events, self.version


def _event(write: Write, labels: str) -> Object | None:
    was = write.before is not None and matches(write.before, labels)
    now = write.after is not None and matches(write.after, labels)
    if now:
        return {"type": "MODIFIED" if was else "ADDED", "object": copy.deepcopy(write.after)}
    if not was:
        return None
    # The last state, with the version of the write that took it away.
    gone = copy.deepcopy(write.before)
    assert gone is not None
    gone["metadata"]["resourceVersion"] = str(write.version)
    return {"type": "DELETED", "object": gone}


def matches(found: Object, labels: str) -> bool:
    """Whether an object has what a selector of labels asks for, and the name where that is in it."""
    own = {**(found["metadata"].get("labels") or {}), "metadata.name": found["metadata"]["name"]}
    return all(_holds(own, part.strip()) for part in re.split(r",(?![^(]*\))", labels) if part)


def _holds(own: dict[str, str], part: str) -> bool:
    if some := re.fullmatch(r"(\S+) (in|notin) \(([^)]*)\)", part):
        return (own.get(some[1]) in some[3].split(",")) == (some[2] == "in")
    name, equals, value = part.partition("=")
    if equals:
        return own.get(name) == value.removeprefix("=")
    return name in own if not name.startswith("!") else name[1:] not in own


def status(code: int, reason: str, message: str, **details: Any) -> Object:
    """A Status, as failures are answered."""
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code, **({"details": details} if details else {}),
    }  # fmt: skip
