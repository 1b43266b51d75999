"""`GET` and `PUT /api/traffic` on the admin port, never on the port that a steered Traefik asks.

Rules:

- A write needs an admin token that may operate, wherever it comes from: a network or a machine is shared with others.
  A read needs one that may read where the port is open beyond loopback; on loopback it is for whom the page is for.
- An answer that refuses is a `Problem`: a word for programs, a sentence for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from aiohttp import web

from trunkline.balancer.traffic.control import NotReady, OtherGeneration, TrafficControl, Unreadable
from trunkline.errors import BusError, BusUnavailable
from trunkline.net.admin.audit import record
from trunkline.net.admin.holders import Holder, refusal
from trunkline.net.admin.routes import SET_TRAFFIC, TRAFFIC
from trunkline.protocol.control import Problem
from trunkline.protocol.traffic import TrafficOrder, TrafficState

log = structlog.get_logger("trunkline.admin")

PATH: Final = "/api/traffic"
BODY_S: Final = 10.0
"""Time that the body of a request may take to come."""

RETRY_S: Final = 2.0


class TrafficApi:
    """The handlers.

    Args:
        state: what is shown.
        holder: whose admin token a request carries.
        why_no_read: why a request without one may not read, empty when it may.
    """

    def __init__(
        self,
        control: TrafficControl,
        state: Callable[[], TrafficState],
        holder: Callable[[web.BaseRequest], Holder | None],
        why_no_read: Callable[[web.BaseRequest], str],
    ) -> None:
        self._control = control
        self._state = state
        self._holder = holder
        self._why_no_read = why_no_read

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [web.get(PATH, self._get), web.put(PATH, self._put)]

    async def _get(self, request: web.BaseRequest) -> web.Response:
        refused = refusal(self._holder(request), TRAFFIC)
        if refused is not None and (why := self._why_no_read(request)):
            if refused.status == 403:
                return _answer(refused.problem, 403)
            return _refused(401, "unauthorized", why)
        return _answer(self._state(), 200)

    async def _put(self, request: web.BaseRequest) -> web.Response:
        holder = self._holder(request)
        if holder is None:
            return _refused(401, "unauthorized", "the admin token is missing or wrong; each write needs it")
        refused = refusal(holder, SET_TRAFFIC)
        answer = await self._write(request) if refused is None else _answer(refused.problem, refused.status)
        record(log, holder, SET_TRAFFIC, PATH, request.remote or "", answer.status)
        return answer

    async def _write(self, request: web.BaseRequest) -> web.Response:
        try:
            async with asyncio.timeout(BODY_S):
                order = msgspec.json.decode(await request.read(), type=TrafficOrder)
            await self._control.put(order)
        except TimeoutError:
            return _refused(408, "bad_request", f"the body did not come within {BODY_S:g} s")
        except (msgspec.MsgspecError, web.RequestPayloadError, ConnectionError) as error:
            # The last one: the client has left within the body.
            return _refused(400, "bad_request", str(error))
        except OtherGeneration as error:
            return _refused(409, "changed", str(error))
        except NotReady as error:
            return _refused(422, "not_ready", str(error))
        except Unreadable as error:
            return _refused(500, "internal", f"{error}; give force: true to write another one in its place")
        except BusUnavailable as error:
            text = f"the store cannot be reached, so the table may or may not be written; read it again: {error}"
            return _answer(Problem("unavailable", text, RETRY_S), 503)
        except BusError as error:
            return _refused(500, "internal", str(error))
        return _answer(self._state(), 200)


def _refused(status: int, error: str, why: str) -> web.Response:
    response = _answer(Problem(error, why), status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _answer(body: msgspec.Struct, status: int) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
