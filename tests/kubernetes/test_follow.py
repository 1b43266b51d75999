"""A list that is followed over real connections, which break, are refused, and lose their history in any order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.kubernetes.api_server import ApiServer
from tests.support.patience import patient
from trunkline.kubernetes.access import Access
from trunkline.kubernetes.client import ApiClient
from trunkline.kubernetes.credentials import FixedToken
from trunkline.kubernetes.failures import ApiFailed
from trunkline.kubernetes.follow import Following
from trunkline.kubernetes.objects import PODS, Meta
from trunkline.settings.secret import Secret

Seen = dict[str, str]
NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("hide"), NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.sampled_from(["compact", "cut", "half", "refuse", "bookmark", "as status", "as event", "turn"])),
)


class Pod(msgspec.Struct, frozen=True):
    metadata: Meta


class Recorder:
    """A `Follower` that keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.failures: list[ApiFailed] = []
        self.watches = 0
        self.news = asyncio.Event()

    def changed(self, objects: Mapping[str, Pod]) -> None:
        self.seen.append({name: (pod.metadata.labels or {})["value"] for name, pod in objects.items()})
        self.news.set()

    def working(self) -> None:
        self.watches += 1
        self.news.set()

    def failed(self, error: ApiFailed) -> None:
        self.failures.append(error)
        self.news.set()

    async def until(self, wanted: Seen) -> None:
        async with asyncio.timeout(patient(10)):
            while not self.seen or self.seen[-1] != wanted:
                self.news.clear()
                await self.news.wait()


def there(server: ApiServer) -> Seen:
    found = server.store.all("pods", "live", "app=ws")
    return {pod["metadata"]["name"]: pod["metadata"]["labels"]["value"] for pod in found}


async def play(steps: list[tuple[Any, ...]]) -> None:
    """Do the steps while the list is followed, and look at what was seen of it."""
    async with ApiServer().serving() as server, ApiClient(Access(server.url, FixedToken(Secret("")))) as client:
        recorder, states = Recorder(), [{}]
        following = Following(client, PODS, Pod, "live", "app=ws", first_pause_s=0.001)
        task = asyncio.create_task(following.run(recorder))
        try:
            await server.until_watched()
            for step in steps:
                match step:
                    case "put", name, value:
                        labels = {"app": "ws", "value": str(value)}
                        server.put("pods", "live", {"metadata": {"name": name, "labels": labels}})
                    case "hide", name:
                        server.put("pods", "live", {"metadata": {"name": name, "labels": {"app": "x"}}})
                    case "delete", name:
                        with contextlib.suppress(Exception):
                            server.delete("pods", "live", name)
                    case ("compact",):
                        server.store.compact()
                    case ("cut",):
                        server.cut()
                    case ("half",):
                        server.cut_in_the_next_event()
                    case ("refuse",):
                        server.refusals.append((503, {}))
                    case ("bookmark",):
                        server.bookmark_s = 0.005
                    case (("as status" | "as event") as how,):
                        server.gone_as = "status" if how == "as status" else "event"
                    case ("turn",):
                        await asyncio.sleep(0.005)
                states.append(there(server))
            server.wrote()
            await recorder.until(there(server))
            assert all(seen in states for seen in recorder.seen)
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=15))
@example([("put", "a", 1), ("half",), ("put", "b", 2), ("turn",), ("compact",), ("cut",), ("delete", "a")])
@example([("put", "a", 1), ("as status",), ("refuse",), ("cut",), ("put", "b", 2), ("compact",), ("put", "a", 3)])
@example([("bookmark",), ("put", "a", 1), ("turn",), ("hide", "a"), ("cut",), ("refuse",), ("put", "a", 2)])
def test_what_is_seen_was_there_and_comes_to_what_is(steps: list[tuple[Any, ...]]) -> None:
    """However its connections end, it shows states that there were, and in the end the present one."""
    asyncio.run(play(steps))


async def test_watches_that_cannot_begin_end_in_a_list() -> None:
    """As with a store that was restored from a copy: the version that is known lies in its future."""
    async with ApiServer().serving() as server, ApiClient(Access(server.url, FixedToken(Secret("")))) as client:
        recorder = Recorder()
        following = Following(client, PODS, Pod, "live", "app=ws", first_pause_s=0.001)
        task = asyncio.create_task(following.run(recorder))
        try:
            await server.until_watched()
            labels = {"app": "ws", "value": "1"}
            server.put("pods", "live", {"metadata": {"name": "a", "labels": labels}})
            await recorder.until({"a": "1"})
            server.store.restore(50)
            server.cut()
            await recorder.until({})
            assert "Too large resource version" in str(recorder.failures[0])
            assert server.asked["list pods"] == 2
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_list_without_a_version_cannot_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers so is no API server; a watch from nowhere would miss what happened before it."""
    async with ApiServer().serving() as server, ApiClient(Access(server.url, FixedToken(Secret("")))) as client:
        monkeypatch.setattr(server.store, "page", lambda *_: {"metadata": {}, "items": []})
        recorder = Recorder()
        task = asyncio.create_task(Following(client, PODS, Pod, "live", "app=ws").run(recorder))
        try:
            async with asyncio.timeout(patient(10)):
                while not recorder.failures:
                    await recorder.news.wait()
                    recorder.news.clear()
            assert "has no resource version" in str(recorder.failures[0])
            assert (recorder.seen, server.watched_from) == ([], [])
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
