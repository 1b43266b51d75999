"""An API server over HTTP or TLS: authentication by tokens, RBAC, lists in pages, watches, patches; and its failures.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Literal

from aiohttp import web

from tests.support.kubernetes.merging import merged
from tests.support.kubernetes.store import Missing, Object, Store, TooLarge, TooOld, status
from tests.support.patience import patient

_GROUPS = {"discovery.k8s.io": ("endpointslices", "EndpointSlice"), "apps": ("deployments", "Deployment")}
_KINDS = {"pods": "Pod", **dict(_GROUPS.values())}

Rule = tuple[str, str]
"""Verb and resource, such as `("list", "endpointslices.discovery.k8s.io")`, in any namespace."""


class ApiServer:
    """Serves one store.

    Attributes:
        store: the objects; `wrote` after each write.
        tokens: who asks, by token; without any no token is needed.
        rules: what RBAC allows to everybody, None for everything.
        refusals: answers of the next requests in place of theirs: status and headers.
        refusals_of: the same for requests of one verb.
        gone_as: how a watch from too old a version is answered.
        bookmark_s: seconds between bookmarks.
        bookmarks: versions that were sent in them.
        asked: requests by verb and resource.
        watched_from: versions that watches began at.
        watching: open watches.
        logs: of pods, by name.
        patched: called after a patch.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.tokens: dict[str, str] = {}
        self.rules: set[Rule] | None = None
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.refusals_of: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.gone_as: Literal["event", "status"] = "event"
        self.bookmark_s = 60.0
        self.bookmarks: list[int] = []
        self.asked: Counter[str] = Counter()
        self.watched_from: list[str] = []
        self.watching: set[asyncio.Transport] = set()
        self.logs: dict[str, str] = {}
        self.patched: Callable[[], None] = lambda: None
        self.url = ""
        self._news = asyncio.Condition()
        self._half = False
        self._tell: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[ApiServer]:
        """On loopback, until the end of the block."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
            await site.start()
            at = runner.addresses[0][1]
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{at}"
            yield self
        finally:
            self.cut()
            await runner.cleanup()

    def wrote(self) -> None:
        """Wake the watches, after writes to the store."""

        async def tell() -> None:
            async with self._news:
                self._news.notify_all()

        task = asyncio.get_running_loop().create_task(tell())
        self._tell.add(task)
        task.add_done_callback(self._tell.discard)

    def put(self, plural: str, namespace: str, given: Object) -> Object:
        found = self.store.put(plural, namespace, given)
        self.wrote()
        return found

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self.store.delete(plural, namespace, name)
        self.wrote()

    def cut(self) -> None:
        """Break the connection of every watch."""
        for transport in list(self.watching):
            transport.abort()

    def cut_in_the_next_event(self) -> None:
        """Break the connection of a watch after half of the line of its next event."""
        self._half = True

    async def until_watched(self, count: int = 1, *, within_s: float = 10.0) -> None:
        """Wait for open watches."""
        async with asyncio.timeout(patient(within_s)):
            while len(self.watching) < count:
                await asyncio.sleep(0.01)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if parts[0] == "api":
            group, rest = "", parts[2:]
        elif parts[0] == "apis" and len(parts) > 2:
            group, rest = parts[1], parts[3:]
        else:
            return _discovery(request.path.rstrip("/"))
        if len(rest) < 3:
            return _discovery(request.path.rstrip("/"))
        _, namespace, plural, *names = rest
        name, part = (*names, "", "")[:2]
        verb = {"GET": "get" if name else "watch" if request.query.get("watch") else "list"}.get(
            request.method, request.method.lower()
        )
        what = f"{plural}.{group}" if group else plural
        resource = f"{what}/{part}" if part else what
        self.asked[f"{verb} {resource}"] += 1
        if refusals := self.refusals_of.get(verb) or self.refusals:
            code, headers = refusals.pop(0)
            answer = _refused(status(code, "", "made to fail by the test"))
            answer.headers.update(headers)
            return answer
        user = self.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "), "")
        if self.tokens and not user:
            return _refused(status(401, "Unauthorized", "Unauthorized"))
        if self.rules is not None and (verb, resource) not in self.rules:
            message = (
                f'{what} is forbidden: User "{user or "system:anonymous"}" cannot {verb} resource '
                f'"{plural}{"/" + part if part else ""}" in API group "{group}" in the namespace "{namespace}"'
            )
            return _refused(status(403, "Forbidden", message, group=group, kind=plural))
        try:
            match verb:
                case "watch":
                    return await self._watch(request, plural, namespace)
                case "list":
                    return self._list(request, group, plural, namespace)
                case "get" if part == "log":
                    containers = self.store.get(plural, namespace, name)["spec"]["containers"]
                    if len(containers) > 1 and "container" not in request.query:
                        message = f"a container name must be specified for pod {name}"
                        return _refused(status(400, "BadRequest", message))
                    lines = self.logs.get(name, "").splitlines(keepends=True)
                    tail = int(request.query.get("tailLines", "0"))
                    text, most = "".join(lines[-tail:] if tail else lines), request.query.get("limitBytes")
                    return web.Response(text=text[: int(most)] if most else text)
                case "get":
                    return _answered(self.store.get(plural, namespace, name))
                case "patch":
                    found = merged(self.store.get(plural, namespace, name), await request.json())
                    if plural == "deployments" and not _selects(found):
                        message = "spec.template.metadata.labels: `selector` does not match template `labels`"
                        return _refused(status(422, "Invalid", f'{what} "{name}" is invalid: {message}'))
                    if request.query.get("dryRun") == "All":
                        return _answered(found)
                    self.put(plural, namespace, found)
                    self.patched()
                    return _answered(self.store.get(plural, namespace, name))
        except Missing:
            return _refused(status(404, "NotFound", f'{what} "{name}" not found'))
        return _refused(status(405, "MethodNotAllowed", "the server does not allow this method on the resource"))

    def _list(self, request: web.Request, group: str, plural: str, namespace: str) -> web.Response:
        query = request.query
        limit, token = int(query.get("limit", "0")), query.get("continue", "")
        try:
            found = self.store.page(plural, namespace, _selected(request), limit, token)
        except TooOld as error:
            return _refused(status(410, "Expired", str(error)))
        version = f"{group}/v1" if group else "v1"
        return _answered({"kind": f"{_KINDS[plural]}List", "apiVersion": version, **found})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        query = request.query
        selected, version = _selected(request), int(query["resourceVersion"])
        self.watched_from.append(query["resourceVersion"])
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        answer.enable_chunked_encoding()
        try:
            events, version = self.store.since(version, plural, namespace, selected)
        except TooLarge as error:
            return _refused(status(504, "Timeout", str(error)))
        except TooOld as error:
            expired = status(410, "Expired", str(error))
            if self.gone_as == "status":
                return _refused(expired)
            await answer.prepare(request)
            await answer.write(_line({"type": "ERROR", "object": expired}))
            return answer
        await answer.prepare(request)
        transport = request.transport
        assert transport is not None
        self.watching.add(transport)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + float(query.get("timeoutSeconds", "1800"))
        marked_at = loop.time()
        try:
            while True:
                for event in events:
                    await self._send(transport, answer, event)
                if (left := ends_at - loop.time()) <= 0:
                    return answer
                if query.get("allowWatchBookmarks") == "true" and loop.time() - marked_at >= self.bookmark_s:
                    marked_at = loop.time()
                    mark = {"kind": _KINDS[plural], "metadata": {"resourceVersion": str(version)}}
                    await answer.write(_line({"type": "BOOKMARK", "object": mark}))
                    self.bookmarks.append(version)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, self.bookmark_s)), self._news:
                        await self._news.wait_for(functools.partial(self._beyond, version))
                events, version = self.store.since(version, plural, namespace, selected)
        except TooOld as error:
            # An open watch that had read everything lives through a compaction; this one had not.
            await answer.write(_line({"type": "ERROR", "object": status(410, "Expired", str(error))}))
            return answer
        except ConnectionResetError:
            return answer
        finally:
            self.watching.discard(transport)

    def _beyond(self, version: int) -> bool:
        return self.store.version > version

    async def _send(self, transport: asyncio.Transport, answer: web.StreamResponse, event: Object) -> None:
        line = _line(event)
        if self._half:
            self._half = False
            await answer.write(line[: len(line) // 2])
            # The half has to leave before the connection breaks.
            await asyncio.sleep(0.05)
            transport.abort()
            raise ConnectionResetError
        await answer.write(line)


def _selects(deployment: Object) -> bool:
    """Whether its pods are those that it selects."""
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    return labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def _discovery(path: str) -> web.Response:
    """What `kubectl` asks first: which groups there are, and which resources in them."""
    groups = [
        {
            "name": group,
            "versions": [{"groupVersion": f"{group}/v1", "version": "v1"}],
            "preferredVersion": {"groupVersion": f"{group}/v1", "version": "v1"},
        }
        for group in _GROUPS
    ]
    resources = {"/api/v1": ("v1", "pods", "Pod")} | {
        f"/apis/{group}/v1": (f"{group}/v1", *names) for group, names in _GROUPS.items()
    }
    match path:
        case "/api":
            return _answered({"kind": "APIVersions", "versions": ["v1"]})
        case "/apis":
            return _answered({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        case _ if path in resources:
            version, plural, kind = resources[path]
            verbs = ["get", "list", "watch", "patch"]
            row = {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
            return _answered({"kind": "APIResourceList", "groupVersion": version, "resources": [row]})
    return _refused(status(404, "NotFound", "the server could not find the requested resource"))


def _line(event: Object) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def _selected(request: web.Request) -> str:
    """The selector of labels; a field is one more pair for it."""
    return ",".join(filter(None, (request.query.get(name, "") for name in ("labelSelector", "fieldSelector"))))


def _answered(found: Object) -> web.Response:
    return web.Response(body=json.dumps(found).encode(), content_type="application/json")


def _refused(failure: Object) -> web.Response:
    answer = _answered(failure)
    answer.set_status(failure["code"])
    return answer
