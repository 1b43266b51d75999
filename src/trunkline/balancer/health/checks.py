"""Active checks of each backend, by a request or by a real WebSocket handshake.

Rules:

* Each check makes a new connection, since that is what a client will need.
* A check by request is good when the answer is 2xx. Where the operator named no path, 4xx is good too: the backend
  answers, and a foreign one need not know our path.
* A node of ours that is unhealthy only because it is nearly full or busy is good: load is for placement, which would
  otherwise lose the last places of every node, and all nodes at once in a storm.
* A handshake is good when the backend answers 101 with the right Sec-WebSocket-Accept; it is closed with 1000.
* One result a check; nothing here decides that a backend is down.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import msgspec
import structlog

from trunkline.balancer.health.requests import FAULTS, Redirected, open_session, read_at_most, reason_of
from trunkline.balancer.health.rota import Rota
from trunkline.balancer.tls import backend_context
from trunkline.placement.backend import BackendSpec
from trunkline.process.open_files import exhausted
from trunkline.protocol.control import Health
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

LONGEST_BODY: Final = 65_536
DEFAULT_PATH: Final = BalancerSettings().health_path


class HealthChecks:
    """Checks backends at their interval; `on_result` gets the URL, whether it is well, and what is wrong.

    `tls` is for backends that speak it. Raises SettingsError for a `balancer.tls_ca_file` that cannot be used.
    """

    def __init__(self, settings: BalancerSettings, on_result: Callable[[str, bool, str], None]) -> None:
        self._settings = settings
        self._on_result = on_result
        self._specs: dict[str, BackendSpec] = {}
        self._missing_logged: set[str] = set()
        self.tls = backend_context(settings)
        self._session: aiohttp.ClientSession | None = None
        self._timeout_s = settings.health_timeout_ms / 1000
        self._rota = Rota(self._check, settings.health_interval_ms / 1000)

    def set_backends(self, specs: Sequence[BackendSpec]) -> None:
        """Take the whole list of backends; a new one is checked at once."""
        self._specs = {spec.url: spec for spec in specs}
        self._missing_logged &= self._specs.keys()
        self._rota.set_members(self._specs)

    def hurry(self, url: str) -> None:
        """Check a backend now, because it is suspected."""
        self._rota.hurry(url)

    async def start(self) -> None:
        """Begin to check, unless `balancer.health` is off."""
        if self._settings.health == "off":
            return
        self._session = open_session(self.tls, timeout_s=self._timeout_s, keep_alive=False)
        self._rota.start()

    async def close(self) -> None:
        """End all checks under way; nothing is reported after this."""
        await self._rota.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _check(self, url: str) -> None:
        spec, session = self._specs.get(url), self._session
        if spec is None or session is None:
            return
        path = self._settings.health_path if spec.health_path is None else spec.health_path
        # The answer of a path that is spelled out, even as the default one, counts as it is.
        named = spec.health_path is not None or path != DEFAULT_PATH
        ask = self._shake_hands if self._settings.health == "websocket" else self._get
        try:
            wrong = await ask(session, spec, path, named)
        except Redirected as error:
            wrong = f"{error}, a redirect"
        except TimeoutError:
            wrong = f"no answer within {self._settings.health_timeout_ms} ms"
        except FAULTS as error:
            if exhausted(error):
                return
            wrong = reason_of(error)
        # It may have left the list meanwhile, and come back as another one.
        if self._specs.get(url) == spec:
            self._on_result(url, not wrong, wrong)

    async def _get(self, session: aiohttp.ClientSession, spec: BackendSpec, path: str, named: bool) -> str:
        """Check by a request; returns what is wrong, empty for nothing."""
        url, name = spec.url, spec.server_name or None
        async with (
            asyncio.timeout(self._timeout_s),
            session.get(url + path, allow_redirects=False, server_hostname=name) as answer,
        ):
            status = answer.status
            body = await read_at_most(answer, LONGEST_BODY)
        if 200 <= status < 300:
            return ""
        if not named and 400 <= status < 500:
            if url not in self._missing_logged:
                self._missing_logged.add(url)
                log.info("health_page_missing", backend=url, path=path, status=status, taken_as="well, it answers")
            return ""
        if status == 503 and body is not None and only_loaded(body):
            return ""
        return f"status {status}"

    async def _shake_hands(self, session: aiohttp.ClientSession, spec: BackendSpec, path: str, named: bool) -> str:
        """Check by a WebSocket handshake; returns what is wrong, empty for nothing."""
        goodbye = aiohttp.ClientWSTimeout(ws_close=self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                # What it sends before it reads our close frame is dropped; a long message ends the connection.
                socket = await session.ws_connect(
                    spec.url + path,
                    timeout=goodbye,
                    max_msg_size=LONGEST_BODY,
                    server_hostname=spec.server_name or None,
                )
        except aiohttp.WSServerHandshakeError as error:
            if named or error.status == 101:
                return reason_of(error)
            return f"{reason_of(error)}; name a WebSocket endpoint in balancer.health_path"
        # The handshake was the check; how long the backend takes to close is not.
        with contextlib.suppress(*FAULTS):
            await socket.close(code=aiohttp.WSCloseCode.OK)
        return ""


def only_loaded(body: bytes) -> bool:
    """Whether `body` is the `/health` of a node of ours on which nothing but its load is unhealthy."""
    try:
        health = msgspec.json.decode(body, type=Health)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    unwell = {name for name, check in health.checks.items() if not check.healthy}
    return bool(unwell) and unwell <= {"capacity", "cpu"}
