"""Asks the fleet's balancers over HTTP, on their admin ports.

Rules:

- Any balancer answers for all. One that cannot be reached is asked last from then on, and so is one that cannot do it
  now: it may be cut off from the store alone.
- An order that was sent and not answered may have been carried out; it is not sent to another balancer.
- Without a token of its own, an address on this machine is asked with the token that is kept there for this user. It
  is read each time, and again when it is refused, for a balancer that was started again has another one: it keeps it
  a moment after it has the port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from trunkline.deploy.world.base import FleetRefused, FleetUnreachable
from trunkline.errors import SettingsError
from trunkline.net.admin.kept import kept_token
from trunkline.protocol.control import Problem
from trunkline.protocol.traffic import TrafficOrder, TrafficState
from trunkline.version import __version__

T = TypeVar("T", bound=msgspec.Struct)

TIMEOUT_S: Final = 5.0
KEEPS_S: Final = 0.3
KEEPS_TIMES: Final = 5
"""Pause before a refused token of this machine is read again, and how often it is."""

LONGEST: Final = 16 << 20
LONGEST_WHY: Final = 300
UNABLE: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Backend(msgspec.Struct, frozen=True):
    """An entry of `services`, as a balancer shows it; what an older one does not show has a default."""

    url: str
    name: str
    group: str
    source: str
    state: str
    connections: int
    capacity: int | None
    weight: float = 1.0
    version: str = ""
    usable: bool | None = None


class _Overview(msgspec.Struct, frozen=True):
    services: tuple[Backend, ...]


class Balancers:
    """The admin ports of one or several balancers.

    Args:
        addresses: of the admin ports, e.g. http://127.0.0.1:8081.
        token: bearer token of all of them, empty for those that are kept on this machine.
        overview: path of their own counts (`balancer.balancer_metric_path`).
        spare: bearer token for those that have none kept on this machine.

    Raises:
        SettingsError: an address is none.
    """

    def __init__(
        self, addresses: Sequence[str], token: str = "", overview: str = "/balancer-metrics", spare: str = ""
    ) -> None:
        self._addresses = [_address(each) for each in addresses]
        self._token = token
        self._overview = overview
        self._spare = spare
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def backends(self) -> tuple[Backend, ...]:
        """All backends that a balancer has; raises FleetUnreachable, FleetRefused."""
        _, body = await self._ask("GET", f"{self._overview}?format=json")
        return _read(body, _Overview).services

    async def traffic(self) -> TrafficState:
        """The traffic table and who applies it; raises FleetUnreachable, FleetRefused."""
        _, body = await self._ask("GET", "/api/traffic")
        return _read(body, TrafficState)

    async def put_traffic(self, order: TrafficOrder) -> TrafficState | None:
        """Write the table; None when another generation is there. Raises FleetUnreachable, FleetRefused."""
        status, body = await self._ask("PUT", "/api/traffic", msgspec.json.encode(order))
        return None if status == HTTPStatus.CONFLICT else _read(body, TrafficState)

    async def _ask(self, method: str, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the first balancer that answers; 200 and 409 are returned."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"trunkline-deploy/{__version__}"},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                trust_env=False,
            )
        silent = []
        for address in list(self._addresses):
            sent = True
            try:
                status, body = await self._answer(self._session, method, address, path, data)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                sent = not isinstance(error, aiohttp.ClientConnectorError)
                why = f"did not answer: {str(error) or type(error).__name__}"
            else:
                if status in (HTTPStatus.OK, HTTPStatus.CONFLICT):
                    return status, body
                if status not in UNABLE:
                    raise FleetRefused(_refusal(address, path, status, body))
                why = f"answered {status}: {_text(body)}"
            self._addresses.remove(address)
            self._addresses.append(address)
            if sent and data is not None:
                raise FleetUnreachable(f"the balancer at {address} {why}")
            silent.append(f"{address} {why}")
        raise FleetUnreachable(f"no balancer can be reached: {'; '.join(silent)}")

    async def _answer(
        self, session: aiohttp.ClientSession, method: str, address: str, path: str, data: bytes | None
    ) -> tuple[int, bytes]:
        for attempt in range(KEEPS_TIMES):
            async with session.request(
                method, address + path, data=data, headers=self._headers(address), allow_redirects=False
            ) as answer:
                status, body = answer.status, await read_body(answer, LONGEST)
            if self._token or status != HTTPStatus.UNAUTHORIZED or attempt == KEEPS_TIMES - 1:
                break
            await asyncio.sleep(KEEPS_S)
        return status, body

    def _headers(self, address: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = self._token
        if not token:
            place = urlsplit(address)
            if place.hostname in LOOPBACK and place.port:
                token = kept_token(place.port) or ""
            token = token or self._spare
        return {**headers, "Authorization": f"Bearer {token}"} if token else headers


def _address(text: str) -> str:
    """The address of an admin port; raises SettingsError, which does not show what may be a password."""
    try:
        parts = urlsplit(text)
        found = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or brackets that do not close
        found = False
    if not found or "@" in text:
        shown = text if "@" not in text else None
        raise SettingsError("--balancer", value=shown, allowed="the address of an admin port: http://10.0.0.5:8081")
    return text.rstrip("/")


async def read_body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of an answer, of which only about `most` bytes are read."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > most:
            break
    return bytes(body)


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise FleetRefused(f"a balancer's answer cannot be read, as of another release: {error}") from None


def _refusal(address: str, path: str, status: int, body: bytes) -> str:
    text = f"the balancer at {address} answered {status} to {path.partition('?')[0]}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return f"{text}: {_text(body)}; name a token that may do it (admin.token, admin.token_file or admin.tokens)"
        case HTTPStatus.NOT_FOUND:
            return f"{text}: it is no admin port of a balancer, or of an older release"
    return f"{text}: {_text(body)}"


def _text(body: bytes) -> str:
    """What a refusal says, in one line."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(body, type=Problem).message
    return " ".join(body[:LONGEST_WHY].decode("utf-8", "replace").split())
