"""Follows a list of objects: lists, watches, and begins again where `mirror` says.

Facts:

- A watch is asked to last a minute: a connection that died silently is noticed by then. Watching goes on from where it
  was, and costs the server little.
- After a failure it is tried again after half a second, then ever later, at most every 15 s, or when the server says.
- Every ten minutes it lists again, for what no watch shows: a store that was restored from a copy.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final, Generic, Protocol, TypeVar

import aiohttp

from trunkline.kubernetes.client import ApiClient
from trunkline.kubernetes.failures import ApiExpired, ApiFailed, Request
from trunkline.kubernetes.mirror import Mirror
from trunkline.kubernetes.objects import KubernetesObject, Listed, Resource

PAGE: Final = 500
WATCH_S: Final = 60
OVERDUE_S: Final = 10.0
"""Seconds after which a watch that the server does not end is ended here."""

RELIST_S: Final = 600.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
STEADY_S: Final = 5.0
"""A watch that lasted so long begins the next one at once."""

FAILED_WATCHES: Final = 3
"""After so many watches in a row that could not begin, a list is asked for: the position may be the reason."""

T = TypeVar("T", bound=KubernetesObject)
T_contra = TypeVar("T_contra", contravariant=True)


class Follower(Protocol[T_contra]):
    """Who is to know of the objects. Nothing here may block or raise."""

    def changed(self, objects: Mapping[str, T_contra]) -> None:
        """The objects by name, after the first list and whenever something may have changed."""

    def working(self) -> None:
        """A watch has begun."""

    def failed(self, error: ApiFailed) -> None:
        """It cannot be followed for now; it is tried again."""


class Following(Generic[T]):
    """One list of one namespace.

    Args:
        client: asks the API server.
        resource: kind of the objects.
        kind: their struct.
        namespace: where they are.
        labels: label selector.
        watch_s: seconds that a watch is asked to last.
        first_pause_s: seconds before the second try.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        kind: type[T],
        namespace: str,
        labels: str,
        *,
        watch_s: int = WATCH_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._client = client
        self._resource = resource
        self._page: type[Listed[T]] = Listed[kind]  # type: ignore[valid-type]
        self._namespace = namespace
        self._labels = labels
        self._watch_s = watch_s
        self._first_pause_s = first_pause_s
        self._mirror: Mirror[T] = Mirror(kind)
        self._listed_at = 0.0
        self._failed_watches = 0

    async def run(self, follower: Follower[T]) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = self._first_pause_s
        while True:
            began, wait_s = loop.time(), 0.0
            try:
                if self._mirror.position and loop.time() - self._listed_at > RELIST_S:
                    self._mirror.list_again()
                if not self._mirror.position:
                    await self._list()
                    self._listed_at = loop.time()
                    follower.changed(self._mirror.objects)
                await self._watch(follower)
            except ApiExpired:
                self._mirror.list_again()
            except ApiFailed as error:
                wait_s = error.retry_after_s
                follower.failed(error)
            if not wait_s and loop.time() - began > STEADY_S:
                pause_s = self._first_pause_s
                continue
            await asyncio.sleep(max(wait_s, pause_s * random.uniform(0.75, 1.0)))  # noqa: S311 - jitter is no secret
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _list(self) -> None:
        while True:
            query = {"labelSelector": self._labels, "limit": str(PAGE)}
            if self._mirror.page:
                query["continue"] = self._mirror.page
            found = await self._client.read(self._resource, self._page, self._namespace, query=query)
            if self._mirror.listed(found):
                break
        if not self._mirror.position:
            raise ApiFailed(
                f"the list of {self._resource} has no resource version: no API server of Kubernetes answers"
            )

    async def _watch(self, follower: Follower[T]) -> None:
        """Watch from the mirror's position until the stream ends."""
        request = Request("watch", self._resource, self._namespace)
        query = {
            "labelSelector": self._labels,
            "resourceVersion": self._mirror.position,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch_s),
        }
        begun = False
        try:
            async with self._client.watch(request, query, self._watch_s + OVERDUE_S) as stream:
                begun = True
                self._failed_watches = 0
                self._mirror.watching()
                follower.working()
                async for chunk in stream.iter_any():
                    if self._mirror.received(chunk, request):
                        follower.changed(self._mirror.objects)
        except (OSError, aiohttp.ClientError):
            return  # cut: the next watch goes on from the last event that came whole
        except ApiExpired:
            raise
        except ApiFailed:
            if not begun:
                self._failed_watches += 1
                if self._failed_watches >= FAILED_WATCHES:
                    self._failed_watches = 0
                    self._mirror.list_again()
            raise
