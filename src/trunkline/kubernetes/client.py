"""Requests to the API server, each with its outcome as an object or as a failure of `failures`."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeVar

import aiohttp
import msgspec

from trunkline.kubernetes.access import Access
from trunkline.kubernetes.failures import ApiFailed, ApiUnreachable, Request, failure_of
from trunkline.kubernetes.objects import Resource
from trunkline.version import __version__

ANSWER_S: Final = 15.0
CONNECT_S: Final = 5.0
STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
MOST_BYTES: Final = 64 * 1024 * 1024
"""Longest answer; 500 objects of the largest size that is usual have a tenth of that."""

MOST_FAILURE_BYTES: Final = 64 * 1024

T = TypeVar("T")


class _Call(msgspec.Struct, frozen=True):
    """An HTTP request; `limit` is the time that it may take."""

    request: Request
    method: str
    limit: aiohttp.ClientTimeout
    query: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = ""


class ApiClient:
    """Asks one API server; `close` it at the end.

    Args:
        access: where it is, and as whom it is asked.
        answer_s: seconds that an answer may take; a watch has its own time.
    """

    def __init__(self, access: Access, *, answer_s: float = ANSWER_S) -> None:
        self._access = access
        self._answer = aiohttp.ClientTimeout(total=answer_s, sock_connect=CONNECT_S)
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def read(
        self, resource: Resource, kind: type[T], namespace: str, name: str = "", query: Mapping[str, str] | None = None
    ) -> T:
        """An object, or a list where there is no name; raises ApiFailed."""
        request = Request("get" if name else "list", resource, namespace, name)
        return _decoded(request, await self._ask(_Call(request, "GET", self._answer, query or {})), kind)

    async def patch(
        self, resource: Resource, kind: type[T], namespace: str, name: str, change: object, *, try_only: bool = False
    ) -> T:
        """Change an object by a strategic merge; raises ApiFailed.

        With `try_only` nothing is changed: the server says whether rights, admission and validity would allow it.
        """
        request = Request("patch", resource, namespace, name)
        query = {"dryRun": "All"} if try_only else {}
        call = _Call(request, "PATCH", self._answer, query, msgspec.json.encode(change), STRATEGIC_MERGE)
        return _decoded(request, await self._ask(call), kind)

    async def text(self, resource: Resource, namespace: str, name: str, part: str, query: Mapping[str, str]) -> str:
        """A part that is text, such as the log of a pod; raises ApiFailed."""
        request = Request("get", resource, namespace, name, part)
        return (await self._ask(_Call(request, "GET", self._answer, query))).decode("utf-8", errors="replace")

    @contextlib.asynccontextmanager
    async def watch(
        self, request: Request, query: Mapping[str, str], lasts_s: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The stream of a watch, which ends after `lasts_s` seconds whatever the server does; raises ApiFailed."""
        limit = aiohttp.ClientTimeout(total=lasts_s, sock_connect=CONNECT_S)
        async with self._answered(_Call(request, "GET", limit, {"watch": "1", **query})) as answer:
            yield answer.content

    async def _ask(self, call: _Call) -> bytes:
        try:
            async with self._answered(call) as answer:
                if len(found := await _body(answer, MOST_BYTES)) < MOST_BYTES:
                    return found
                raise ApiFailed(f"the answer to {call.request} has more than {MOST_BYTES:,} bytes")
        except (OSError, aiohttp.ClientError) as error:
            raise self._unreachable(call.request, error) from None

    @contextlib.asynccontextmanager
    async def _answered(self, call: _Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer, asked for a second time when there is another token after a 401."""
        credentials = self._access.credentials
        token = await credentials.token()
        answer = await self._send(call, token.reveal())
        try:
            if answer.status == 401 and await credentials.refused(token):
                answer.close()
                answer = await self._send(call, (await credentials.token()).reveal())
            if answer.status >= 300:
                retry_after = answer.headers.get("Retry-After", "")
                if answer.status == 401:
                    self._tls = None
                raise failure_of(call.request, answer.status, await _body(answer, MOST_FAILURE_BYTES), retry_after)
            yield answer
        finally:
            answer.close()

    async def _send(self, call: _Call, token: str) -> aiohttp.ClientResponse:
        request = call.request
        path = request.resource.path(request.namespace, request.name, request.part)
        headers = {"Content-Type": call.content_type} if call.content_type else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            if self._session is None:
                # Each Service has a watch of its own. Beyond a bound on connections requests would wait for ever.
                connector = aiohttp.TCPConnector(limit=0)
                agent = {"User-Agent": f"trunkline/{__version__}"}
                self._session = aiohttp.ClientSession(connector=connector, headers=agent)
            if self._tls is None:
                self._tls = self._access.tls()
            # A redirect would carry the token to somewhere else.
            return await self._session.request(
                call.method,
                f"{self._access.server}{path}",
                params=call.query,
                data=call.body,
                headers=headers,
                timeout=call.limit,
                ssl=self._tls if self._tls is not None else True,
                server_hostname=self._access.server_name or None,
                allow_redirects=False,
            )
        except (OSError, aiohttp.ClientError, ValueError) as error:
            raise self._unreachable(request, error) from None

    def _unreachable(self, request: Request, error: Exception) -> ApiFailed:
        # Authorities and client certificates are replaced while a process runs: their files are read again at the next
        # request. A server tells of a bad certificate by an alert, a closed connection, or 401.
        self._tls = None
        why = "it did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return ApiUnreachable(f"cannot {request} at {self._access.server}: {why}")


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """What was answered, up to `most` bytes."""
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) >= most:
            break
    return bytes(found[:most])


def _decoded(request: Request, body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiFailed(f"cannot {request}: what answers is no API server of Kubernetes ({error})") from None
