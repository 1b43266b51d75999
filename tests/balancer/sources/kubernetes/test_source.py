"""Backends from an API server: changes, cut watches, expired versions and tokens, and what RBAC forbids."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.balancer.authority import Authority
from tests.support.balancer.told_lists import ToldLists, running
from tests.support.free_ports import free_port
from tests.support.kubernetes.api_server import ApiServer
from tests.support.kubernetes.slices import endpoint, endpoint_slice
from tests.support.patience import patient
from trunkline.balancer.sources.kubernetes.source import RULE, KubernetesSource
from trunkline.errors import SettingsError
from trunkline.kubernetes.access import Access, Pem
from trunkline.kubernetes.credentials import FileToken, FixedToken
from trunkline.settings.secret import Secret

Logged = Callable[[str], Awaitable[Any]]
FIRST, SECOND, THIRD = (f"http://10.0.0.{number}:3001" for number in (1, 2, 3))
SLICES = "endpointslices.discovery.k8s.io"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer().serving() as server:
        server.put("endpointslices", "live", endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1")))
        yield server


def source_of(server: ApiServer, *entries: str, **changed: Any) -> KubernetesSource:
    access = Access(server.url, FixedToken(Secret("")), "live")
    return KubernetesSource(entries or ("ws:ws",), access, first_pause_s=0.01, **changed)


@contextlib.asynccontextmanager
async def followed(server: ApiServer, **changed: Any) -> AsyncIterator[ToldLists]:
    """A source of one Service that watches already."""
    async with running(source_of(server, **changed)) as lists:
        await lists.until_urls(FIRST)
        await server.until_watched()
        yield lists


def second(server: ApiServer, **conditions: Any) -> None:
    server.put("endpointslices", "live", endpoint_slice("ws-b", endpoint("10.0.0.2", "ws-2", **conditions)))


async def test_changes_are_watched_from_the_version_of_the_list(api: ApiServer) -> None:
    """One list, one watch; what other Services and namespaces have is not ours."""
    other = endpoint_slice("x-a", endpoint("10.0.0.9", "x-1"), service="x")
    api.put("endpointslices", "live", other)
    api.put("endpointslices", "elsewhere", endpoint_slice("ws-a", endpoint("10.0.0.8", "ws-9")))
    version = str(api.store.version)
    async with followed(api) as lists:
        assert lists.last[0].name == "ws-1"
        second(api)
        await lists.until_urls(FIRST, SECOND)
        second(api, ready=False, serving=True, terminating=True)
        assert [spec.draining for spec in await lists.until(lambda specs: specs[-1].draining)] == [False, True]
        api.delete("endpointslices", "live", "ws-b")
        await lists.until_urls(FIRST)
        # An empty list is what the API server says, not a failure.
        api.delete("endpointslices", "live", "ws-a")
        await lists.until_urls()
    assert api.watched_from == [version]
    assert api.asked == {f"list {SLICES}": 1, f"watch {SLICES}": 1}


async def test_a_cut_watch_goes_on_from_the_last_whole_event(api: ApiServer, lines: list[Any]) -> None:
    """Half an event that a break left is sent again by the next watch; nothing is listed again."""
    async with followed(api) as lists:
        second(api)
        await lists.until_urls(FIRST, SECOND)
        at = str(api.store.version)
        api.cut_in_the_next_event()
        api.put("endpointslices", "live", endpoint_slice("ws-c", endpoint("10.0.0.3", "ws-3")))
        await lists.until_urls(FIRST, SECOND, THIRD)
    assert api.watched_from[1:] == [at]
    assert api.asked[f"list {SLICES}"] == 1
    assert not [line for line in lines if line["event"] == "kubernetes_lost"]


@pytest.mark.parametrize("gone_as", ["event", "status"])
async def test_an_expired_version_is_listed_again(api: ApiServer, gone_as: Literal["event", "status"]) -> None:
    """The server forgot what happened since; the backends stay until the new list is there."""
    api.gone_as = gone_as
    async with followed(api) as lists:
        api.refusals = [(503, {})] * 2
        api.cut()
        api.store.put("endpointslices", "live", endpoint_slice("ws-b", endpoint("10.0.0.2", "ws-2")))
        api.store.compact()
        await lists.until_urls(FIRST, SECOND)
        assert [[spec.url for spec in specs] for specs in lists.all] == [[FIRST], [FIRST, SECOND]]
    assert api.asked[f"list {SLICES}"] == 2


async def test_bookmarks_move_the_version_on(api: ApiServer) -> None:
    """After them a watch does not begin in a history that is gone, although its objects are old."""
    api.bookmark_s = 0.02
    async with followed(api) as lists:
        for number in range(20):
            api.put("pods", "live", {"metadata": {"name": f"pod-{number}"}})
        async with asyncio.timeout(patient(10)):
            while api.store.version not in api.bookmarks[:-1]:
                await asyncio.sleep(0.01)
        api.store.compact()
        api.cut()
        second(api)
        await lists.until_urls(FIRST, SECOND)
    assert api.asked[f"list {SLICES}"] == 1


async def test_a_list_comes_in_pages_that_may_expire(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """410 for the token of a page begins the list from its first page."""
    monkeypatch.setattr("trunkline.kubernetes.follow.PAGE", 1)
    second(api)
    page, calls = api.store.page, []

    def expiring(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            api.store.compact()
        return page(*args)

    monkeypatch.setattr(api.store, "page", expiring)
    async with running(source_of(api)) as lists:
        await lists.until_urls(FIRST, SECOND)
        assert lists.all == [lists.last]
    assert [bool(token) for *_, token in calls] == [False, True, False, True]


async def test_a_server_that_goes_away_takes_no_backend(api: ApiServer, logged: Logged) -> None:
    """Begin and end are logged, and what happened meanwhile is seen."""
    port = free_port()
    server = ApiServer()
    server.put("endpointslices", "live", endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1")))
    async with contextlib.AsyncExitStack() as stack:
        async with server.serving(port=port):
            lists = await stack.enter_async_context(running(source_of(server)))
            await lists.until_urls(FIRST)
            await server.until_watched()
        lost = await logged("kubernetes_lost")
        assert (lost["service"], lost["keeps_backends"]) == ("live/ws", 1)
        assert f"cannot watch {SLICES} in namespace live at http://127.0.0.1:{port}" in lost["why"]
        assert lists.urls == [FIRST]
        server.store.put("endpointslices", "live", endpoint_slice("ws-b", endpoint("10.0.0.2", "ws-2")))
        async with server.serving(port=port):
            await lists.until_urls(FIRST, SECOND)
            assert (await logged("kubernetes_back"))["service"] == "live/ws"


async def test_the_first_list_is_empty_when_nothing_can_be_learned(api: ApiServer) -> None:
    api.refusals = [(500, {})]
    async with running(source_of(api)) as lists:
        await lists.until_urls(FIRST)
        assert lists.all[0] == ()


async def test_a_server_that_sheds_load_says_when_to_come_back(api: ApiServer) -> None:
    """429 with Retry-After is not asked again before that."""
    api.refusals = [(429, {"Retry-After": "1"})]
    async with running(source_of(api)) as lists:
        await lists.until(lambda specs: specs == ())
        assert sum(api.asked.values()) == 1
        await lists.until_urls(FIRST)


async def test_a_token_that_expired_is_read_again_from_its_file(api: ApiServer, tmp_path: Path, logged: Logged) -> None:
    """The kubelet writes the next one to the same file; a watch that is open lives on by itself."""
    file = tmp_path / "token"
    file.write_text("first\n")
    api.tokens = {"first": "system:serviceaccount:live:balancer"}
    access = Access(api.url, FileToken(file), "live")
    async with running(KubernetesSource(("ws",), access, first_pause_s=0.01)) as lists:
        await lists.until_urls(FIRST)
        await api.until_watched()
        api.tokens = {"second": "system:serviceaccount:live:balancer"}
        api.cut()
        lost = await logged("kubernetes_lost")
        assert "the API server rejects the credentials" in lost["why"]
        assert "the token may have expired" in lost["why"]
        assert "first" not in lost["why"]
        second(api)
        file.write_text("second\n")
        await lists.until_urls(FIRST, SECOND)
        await logged("kubernetes_back")


@pytest.mark.parametrize("verb", RULE.verbs)
async def test_what_rbac_forbids_is_named_with_the_missing_rule(api: ApiServer, verb: str, logged: Logged) -> None:
    api.tokens = {"": "system:serviceaccount:live:balancer"}
    api.rules = {(allowed, SLICES) for allowed in RULE.verbs if allowed != verb}
    async with running(source_of(api)) as lists:
        lost = await logged("kubernetes_lost")
        assert lost["why"] == (
            f"RBAC does not let system:serviceaccount:live:balancer {verb} {SLICES} in namespace live: "
            'its Role in namespace live lacks the rule apiGroups: ["discovery.k8s.io"], resources: [endpointslices], '
            f"verbs: [{verb}]"
        )
        api.rules = None
        await lists.until_urls(FIRST)
        await logged("kubernetes_back")


async def test_two_ports_of_a_service_share_one_watch(api: ApiServer, logged: Logged) -> None:
    """And a Service that is not there is named, and hides no other one."""
    ports = [{"name": "ws", "port": 3001}, {"name": "match", "port": 3002}]
    api.put("endpointslices", "live", endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1"), ports=ports))
    async with running(source_of(api, "live/ws:ws", "ws:match", "typo:ws")) as lists:
        await lists.until_urls(FIRST, "http://10.0.0.1:3002")
        unusable = await logged("kubernetes_service_unusable")
    assert (unusable["service"], unusable["why"][:25]) == ("live/typo", "it has no EndpointSlice: ")
    assert api.asked[f"list {SLICES}"] == 2


async def test_over_tls_with_its_own_authority(tmp_path: Path, logged: Logged) -> None:
    """An authority that is replaced is read again from its file."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    new.sign(tmp_path / "server.pem", "127.0.0.1")
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(old.file.read_bytes())
    async with ApiServer().serving(new.server(tmp_path / "server.pem")) as server:
        server.put("endpointslices", "live", endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1")))
        access = Access(server.url, FixedToken(Secret("")), "live", Pem(trusted))
        async with running(KubernetesSource(("ws",), access, first_pause_s=0.01)) as lists:
            assert "certificate verify failed" in (await logged("kubernetes_lost"))["why"]
            trusted.write_bytes(new.file.read_bytes())
            await lists.until_urls(FIRST)


def test_an_entry_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"balancer\.kubernetes"):
        KubernetesSource(("a/b/c",), Access("http://127.0.0.1:1", FixedToken(Secret(""))))
