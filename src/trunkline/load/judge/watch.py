"""Watches the servers during a run: which ones there are, how they are, what they have counted.

Rules:

- Nothing that a server answers, or does not answer, ends or delays a run: it is noted, and the numbers are missing.
- Every request has a time-out and every answer a greatest length; redirects are not followed; certificates are verified
  unless the run says otherwise.
- Only URLs that the user named get the token; those that a balancer or the target told of do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from trunkline.errors import SettingsError
from trunkline.load.judge.scrape import Course, Scrape, Snapshot, read
from trunkline.load.model.report import ServerSample
from trunkline.load.output.formatting import counted, plain

INTERVAL_S: Final = 1.0
ANSWER_S: Final = 2.0
LONGEST_ANSWER: Final = 4 << 20
MOST_SERVERS: Final = 200
FRESH_S: Final = INTERVAL_S + ANSWER_S + 0.5
"""An answer older than this says nothing of how a server is now."""

_ASKED_TOGETHER: Final = 32
_QUIET_S: Final = 0.2
_ORIGIN_ASKED: Final = 10
"""How often the target's own origin is asked whether it is always the same server. Where a balancer draws one of two,
all of these go to the same one in 1 of 500 runs, and then the watch notices later."""

_BALANCER_PATH: Final = "/balancer-metrics"
"""Where a balancer shows its backends unless its settings say otherwise."""


class Discovered(msgspec.Struct, frozen=True):
    """The servers to watch.

    Attributes:
        urls: of their `/metrics`; none when the servers cannot be watched.
        note: where these come from, or why there are none, as a sentence without a full stop.
        named: the user named them, so that they may get the user's token.
    """

    urls: tuple[str, ...]
    note: str
    named: bool = False


class _Backend(msgspec.Struct):
    url: str


class _Overview(msgspec.Struct):
    services: list[_Backend]


_decode_overview = msgspec.json.Decoder(_Overview).decode


class ServerWatch:
    """Asks every server once a second; an async context manager.

    Args:
        urls: of the servers' `/metrics`.
        token: sent to each of them as a bearer token, unless empty.
        verify_tls: False takes any certificate.
        ca_file: certificates to trust instead of the system's.
        interval_s: seconds between two rounds.

    Raises:
        SettingsError: on entering; `ca_file` cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str = "",
        *,
        verify_tls: bool = True,
        ca_file: str = "",
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self._asker = _Asker(token, verify_tls, ca_file)
        self._interval_s = interval_s
        self._courses = {url: Course() for url in self.urls}
        self._heard: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        # One round at a time: an answer that overtakes an older one would look like a restart.
        self._round = asyncio.Lock()

    async def __aenter__(self) -> ServerWatch:
        await self._asker.__aenter__()
        if self.urls:
            self._task = asyncio.create_task(self._poll())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._asker.__aexit__(kind, error, trace)

    def sample(self, at_s: float) -> ServerSample | None:
        """How the servers are, by their newest answers; None when none has answered lately.

        Args:
            at_s: the moment that the sample is to carry, in seconds of the run.
        """
        now = asyncio.get_running_loop().time()
        fresh: list[Scrape] = [
            course.newest
            for url, course in self._courses.items()
            if course.newest is not None and not course.mixed and now - self._heard[url] <= FRESH_S
        ]
        if not fresh:
            return None
        return ServerSample(
            at_s,
            len(fresh),
            connections=sum(scrape.counters.active for scrape in fresh),
            cpu_percent=max(scrape.cpu_percent for scrape in fresh),
            memory_bytes=sum(scrape.memory_bytes for scrape in fresh),
            outbox_bytes=sum(scrape.outbox_bytes for scrape in fresh),
            loop_lag_s=max(scrape.loop_lag_s for scrape in fresh),
            draining=sum(scrape.draining for scrape in fresh),
        )

    async def snapshot(self, settle_s: float = 0.0, left: int | None = None) -> Snapshot:
        """Ask every server now.

        Args:
            settle_s: ask again for at most so many seconds, until two answers in a row are the same. A server needs a
                moment to read the last messages and to notice that connections have ended.
            left: connections that should be open there in the end, those of others too; with more of them the servers
                have not settled.
        """
        until = asyncio.get_running_loop().time() + settle_s
        snapshot = await self._ask_all()
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_QUIET_S)
            earlier, snapshot = snapshot, await self._ask_all()
            active = sum(counters.active for counters in snapshot.servers.values())
            if snapshot == earlier and (left is None or active <= left):
                break
        return snapshot

    @property
    def notes(self) -> list[str]:
        """What was noticed so far that a reader of the numbers has to know, as sentences without full stops."""
        notes = []
        for url, course in self._courses.items():
            if course.mixed:
                notes.append(
                    f"several servers answer at {url} in turn; name the `/metrics` of each with --metrics, so that "
                    "what they count can be compared"
                )
                continue
            if course.newest is None:
                notes.append(f"{url} has not answered as a Trunkline server does")
            for name in course.restarted:
                notes.append(f"the server {plain(name)} was replaced by a new process at {url}")
        return notes

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._ask_all()
            # The seconds that a slow round took are left out, not made up for.
            due = max(due + self._interval_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _ask_all(self) -> Snapshot:
        async with self._round:
            return self._take(await self._asker.scrape(self.urls))

    def _take(self, answers: dict[str, Scrape | None]) -> Snapshot:
        now = asyncio.get_running_loop().time()
        servers = {}
        for url, scrape in answers.items():
            course = self._courses[url]
            if scrape is not None:
                course.add(scrape)
                self._heard[url] = now
            counters = course.counters
            if counters is not None:
                servers[url] = counters
        return Snapshot(
            servers,
            tuple(url for url, scrape in answers.items() if scrape is None),
            tuple(plain(name) for course in self._courses.values() for name in course.restarted),
            tuple(url for url, course in self._courses.items() if course.mixed),
        )


async def discover(
    target_url: str,
    given: Sequence[str] = (),
    *,
    verify_tls: bool = True,
    ca_file: str = "",
) -> Discovered:
    """Find the `/metrics` of the servers behind a target.

    What the user named is taken as it is. Else, when the target is on this machine, a Trunkline balancer is looked for:
    its admin port is the one after its port, and its own port has the same page. Else the target itself is asked,
    which is of use when one server answers there.

    Args:
        target_url: ws:// or wss://.
        given: URLs that the user named; one without a path gets `/metrics`.
        verify_tls: False takes any certificate.
        ca_file: certificates to trust instead of the system's.

    Raises:
        SettingsError: one of `given` is no URL for HTTP, or `ca_file` cannot be used.
    """
    if given:
        urls = tuple(dict.fromkeys(_metrics_url(url) for url in given))
        return Discovered(urls, f"{counted(len(urls), 'server')} named with --metrics", named=True)
    origin, host, port = _origin(target_url)
    async with _Asker("", verify_tls, ca_file) as asker:
        if _is_loopback(host):
            pages = [f"{origin}{_BALANCER_PATH}"]
            if port < 65_535:
                pages.insert(0, f"http://{_bracketed(host)}:{port + 1}{_BALANCER_PATH}")
            for page in pages:
                backends = await asker.backends(page)
                if backends:
                    return await _behind_balancer(asker, page, backends)
        return await _at_origin(asker, f"{origin}/metrics")


async def _behind_balancer(asker: _Asker, page: str, backends: list[str]) -> Discovered:
    urls = tuple(dict.fromkeys(f"{backend.rstrip('/')}/metrics" for backend in backends))
    answers = await asker.scrape(urls)
    silent = [url for url, scrape in answers.items() if scrape is None]
    if len(silent) == len(urls):
        return Discovered((), f"no backend of the balancer at {page} answers as a Trunkline server does")
    note = f"{counted(len(urls), 'backend')} of the balancer at {page}"
    if silent:
        note += f"; without an answer as a Trunkline server gives it: {', '.join(silent[:3])}"
        note += f" and {len(silent) - 3} more" if len(silent) > 3 else ""
    return Discovered(urls, note)


async def _at_origin(asker: _Asker, url: str) -> Discovered:
    first = await asker.scrape([url])
    if first[url] is None:
        return Discovered((), f"{url} does not answer as a Trunkline server does; name others with --metrics")
    # Each on a connection of its own: a balancer in between chooses anew for each.
    more = await asyncio.gather(*(asker.scrape([url]) for _ in range(_ORIGIN_ASKED - 1)))
    names = {scrape.node for answers in (first, *more) if (scrape := answers[url]) is not None}
    if len(names) > 1:
        some = ", ".join(plain(name)[:60] for name in sorted(names)[:3])
        return Discovered(
            (), f"{len(names)} servers answer at {url} in turn ({some}); name the `/metrics` of each with --metrics"
        )
    return Discovered((url,), f"the target's own {url}")


class _Asker:
    """An HTTP client for servers; what fails is no answer."""

    def __init__(self, token: str, verify_tls: bool, ca_file: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._verify_tls = verify_tls
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(_ASKED_TOGETHER)

    async def __aenter__(self) -> _Asker:
        tls: ssl.SSLContext | bool = self._verify_tls
        if self._verify_tls and self._ca_file:
            try:
                tls = ssl.create_default_context(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(
                    "--ca", value=self._ca_file, allowed=f"a file of certificates in PEM format ({error})"
                ) from None
        # A connection for each request: one that a server closes just then would look like a server that is away, and
        # behind a balancer all would be asked of the same server. Proxies of the environment are for the way out.
        connector = aiohttp.TCPConnector(ssl=tls, force_close=True, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_S), trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def scrape(self, urls: Iterable[str]) -> dict[str, Scrape | None]:
        """The answers by URL; None where none of ours came."""
        asked = list(urls)
        bodies = await asyncio.gather(*(self._get(url, "text/plain; version=0.0.4", self._headers) for url in asked))
        return {
            url: None if body is None else read(body.decode(errors="replace"))
            for url, body in zip(asked, bodies, strict=True)
        }

    async def backends(self, page: str) -> list[str]:
        """The backends on a balancer's page, at most `MOST_SERVERS`; none when no balancer answers there."""
        body = await self._get(page, "application/json", {})
        if body is None:
            return []
        try:
            services = _decode_overview(body).services
        except msgspec.DecodeError:
            return []
        return [service.url for service in services if _is_http(service.url)][:MOST_SERVERS]

    async def _get(self, url: str, accept: str, headers: dict[str, str]) -> bytes | None:
        if self._session is None:
            raise RuntimeError("use it as a context manager")
        async with self._places:
            try:
                async with self._session.get(
                    url, headers={"Accept": accept, **headers}, allow_redirects=False
                ) as answer:
                    if answer.status != 200:
                        return None
                    body = bytearray()
                    async for chunk in answer.content.iter_chunked(1 << 16):
                        body += chunk
                        if len(body) > LONGEST_ANSWER:
                            return None
                    return bytes(body)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                return None


def _metrics_url(given: str) -> str:
    try:
        parts = urlsplit(given)
        usable = _is_http(given) and parts.username is None and parts.password is None
    except ValueError:
        usable = False
    if not usable:
        # Not shown: whoever puts a password into it does not want to see it in a log.
        raise SettingsError(
            "--metrics",
            allowed="it takes http:// or https:// URLs without user and password, e.g. http://10.0.0.1:3001",
        )
    return given if parts.path not in ("", "/") else parts._replace(path="/metrics").geturl()


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Asking for the port checks it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _origin(target_url: str) -> tuple[str, str, int]:
    """Origin for HTTP, host and port of a WebSocket URL."""
    parts = urlsplit(target_url)
    secure = parts.scheme in ("wss", "https")
    host = parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    return f"{'https' if secure else 'http'}://{_bracketed(host)}:{port}", host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
