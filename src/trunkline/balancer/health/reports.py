"""Fetches load reports: of each backend every `cache_ttl_ms`, or of all before a pick when that is 0.

Rules:

* A backend of ours whose run and count of opened connections are known is requested for the keys behind that count.
* An answer that is too long, late, no JSON of the right shape, or implausible is a failure, and what was known before
  stays.
* A failure is reported each time and logged once, and so is the recovery.
* `asked_at` is taken before the request leaves: a pick made after it may be missing in the answer.
* A pod that reports another address than the URL's stands behind something that may lead to another pod next time: then
  each request has a connection of its own.
* A fresh report means one requested after the call. Callers that come during a request share the next round. A backend
  that failed the last time is requested with the others and not waited for: it must not delay every pick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final

import aiohttp
import msgspec
import structlog
from aiohttp import hdrs

from trunkline.balancer.health.requests import FAULTS, open_session, read_at_most, reason_of
from trunkline.balancer.health.rota import Rota
from trunkline.balancer.tls import backend_context
from trunkline.placement.backend import BackendSpec, place_of
from trunkline.placement.counting.ledger import MOST_REPORTED
from trunkline.process.bounds import end_tasks
from trunkline.protocol.control import LoadReport
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

LONGEST_REPORT: Final = 65_536
LONGEST_REPORT_WITH_KEYS: Final = 1_048_576


class ReportPoller:
    """Collects load reports of the backends that it is given.

    Args:
        on_report: gets a backend's URL, its report, and when it was requested, in seconds of `time.monotonic`.
        on_failure: gets a backend's URL and why there is no report.
        known_opened: the run and the count of opened connections that are known of a backend, None for none.

    Attributes:
        tls: for backends that speak it.

    Raises:
        SettingsError: `balancer.tls_ca_file` cannot be used.
    """

    def __init__(
        self,
        settings: BalancerSettings,
        on_report: Callable[[str, LoadReport, float], None],
        on_failure: Callable[[str, str], None],
        known_opened: Callable[[str], tuple[str, int] | None],
    ) -> None:
        self._settings = settings
        self._on_report = on_report
        self._on_failure = on_failure
        self._known_opened = known_opened
        self._timeout_s = settings.report_timeout_ms / 1000
        self._backends: dict[str, _Asked] = {}
        self.tls = backend_context(settings)
        self._session: aiohttp.ClientSession | None = None
        self._rota = Rota(self._ask, settings.cache_ttl_ms / 1000)
        self._running: set[asyncio.Task[None]] = set()

    def set_backends(self, specs: Sequence[BackendSpec]) -> None:
        """Take the whole list of backends; a new one is requested at once."""
        self._backends = {spec.url: self._backends.get(spec.url) or _Asked() for spec in specs}
        for spec in specs:
            self._backends[spec.url].server_name = spec.server_name or None
        self._rota.set_members(self._backends)
        self._ask_new()

    def reported(self, url: str) -> None:
        """The backend has just reported by itself: the next request can wait for a whole interval."""
        self._rota.postpone(url)

    async def refresh(self, urls: Iterable[str]) -> None:
        """Wait for reports of `urls` that are requested from now on; unknown ones are passed over."""
        wanted = [(url, asked) for url in urls if (asked := self._backends.get(url)) is not None]
        rounds = [(self._next_round(url, asked), asked.failing) for url, asked in wanted]
        wait_for = [task for task, failing in rounds if not failing]
        if wait_for:
            # A caller that is cancelled leaves the round to the others.
            await asyncio.wait(wait_for)

    async def start(self) -> None:
        """Begin."""
        if self._session is not None:
            return
        self._session = open_session(self.tls, timeout_s=self._timeout_s, keep_alive=True)
        if self._settings.cache_ttl_ms:
            self._rota.start()
        self._ask_new()

    async def close(self) -> None:
        """End all requests under way; nothing is reported after this."""
        await self._rota.close()
        await end_tasks(self._running)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _ask_new(self) -> None:
        """Without a rota, request each backend once when it joins."""
        if self._settings.cache_ttl_ms or self._session is None:
            return
        for url, asked in self._backends.items():
            if not asked.ever:
                self._next_round(url, asked)

    def _next_round(self, url: str, asked: _Asked) -> asyncio.Task[None]:
        if asked.next is None or asked.next.done():
            asked.ever = True
            asked.next = asyncio.get_running_loop().create_task(self._round(url, asked, asked.running))
            self._running.add(asked.next)
            asked.next.add_done_callback(self._running.discard)
        return asked.next

    async def _round(self, url: str, asked: _Asked, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        # From here on a caller is too late for this round.
        asked.running, asked.next = asked.next, None
        try:
            await self._ask(url)
        except Exception:
            log.exception("backend_not_asked", backend=url)

    async def _ask(self, url: str) -> None:
        asked, session = self._backends.get(url), self._session
        if asked is None or session is None:
            return
        known = self._known_opened(url)
        asked_at = time.monotonic()
        answer: LoadReport | str
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._get(session, url, known)
        except TimeoutError:
            answer = f"no answer within {self._settings.report_timeout_ms} ms"
        except FAULTS as error:
            answer = reason_of(error)
        if self._backends.get(url) is not asked:
            return
        if isinstance(answer, LoadReport):
            if asked.failing:
                log.info("report_recovered", backend=url)
            asked.failing = False
            asked.behind = answer.podIP is not None and answer.podIP != place_of(url).host
            self._on_report(url, answer, asked_at)
            return
        if not asked.failing:
            log.warning("report_failed", backend=url, path=self._settings.metric_path, why=answer)
        asked.failing = True
        self._on_failure(url, answer)

    async def _get(self, session: aiohttp.ClientSession, url: str, known: tuple[str, int] | None) -> LoadReport | str:
        query = {} if known is None else {"after": str(known[1]), "run": known[0]}
        limit = LONGEST_REPORT if known is None else LONGEST_REPORT_WITH_KEYS
        backend = self._backends.get(url)
        name = backend.server_name if backend is not None else None
        headers = {hdrs.CONNECTION: "close"} if backend is not None and backend.behind else {}
        async with session.get(
            url + self._settings.metric_path, params=query, headers=headers, allow_redirects=False, server_hostname=name
        ) as answer:
            if 300 <= answer.status < 400:
                return f"status {answer.status}, a redirect"
            if answer.status != 200:
                return f"status {answer.status}"
            body = await read_at_most(answer, limit)
        return f"longer than {limit} bytes" if body is None else read_report(body)


class _Asked:
    """What goes on with one backend: the round that has begun and the one that begins after it."""

    __slots__ = ("behind", "ever", "failing", "next", "running", "server_name")

    def __init__(self) -> None:
        self.behind = False
        self.server_name: str | None = None
        self.ever = False
        self.failing = False
        self.running: asyncio.Task[None] | None = None
        self.next: asyncio.Task[None] | None = None


class _Count(msgspec.Struct):
    """All that is needed of a report."""

    agentsConnections: Annotated[int, msgspec.Meta(ge=0)]


def read_report(body: bytes) -> LoadReport | str:
    """The report in `body`, or why there is none.

    A foreign backend may use our other names for something else (`"state": "running"`): then only its count is taken.
    JSON has one kind of number, so `5.0` and `1e3` are whole ones, as many languages write them.
    """
    try:
        try:
            report = msgspec.json.decode(body, type=LoadReport, strict=False)
        except msgspec.ValidationError:
            report = LoadReport(msgspec.json.decode(body, type=_Count, strict=False).agentsConnections)
    except msgspec.ValidationError as error:
        # Names the field and what it should be, nothing of what it is.
        return f"no load report: {error}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "no load report: not JSON"
    if report.agentsConnections > MOST_REPORTED:
        return f"no load report: agentsConnections above {MOST_REPORTED}"
    return report
