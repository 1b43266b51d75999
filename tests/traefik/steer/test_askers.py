"""Who may ask the steering, and what a question that is odd gets."""

from __future__ import annotations

from unittest.mock import Mock

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from trunkline.placement.placing import Ask, Pick
from trunkline.settings.sections import Settings
from trunkline.traefik.steer.handlers import Steering
from trunkline.traefik.steer.layers import PICK_HEADER
from trunkline.traefik.steer.published import Candidate, mark

A = "http://10.0.0.1:3001"


class OnePlacer:
    """Always the same backend."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.dropped_count = 0

    def place(self, ask: Ask) -> Pick:
        self.asks.append(ask)
        return Pick(A, 1, "only")

    def opened(self, pick: Pick) -> None: ...

    def failed(self, pick: Pick, why: str) -> None: ...

    def dropped(self, pick: Pick) -> None:
        self.dropped_count += 1

    def closed(self, pick: Pick) -> None: ...


async def answer(
    steering: Steering, path: str, peer: str, headers: dict[str, str] | None = None, query: str = ""
) -> web.Response:
    """What `peer` gets; only the transport is made up, for the peer of a real one would always be loopback."""
    transport = Mock()
    transport.get_extra_info = {"peername": (peer, 40_000)}.get
    request = make_mocked_request("GET", path + query, headers=headers, transport=transport)
    handler = {route.path: route.handler for route in steering.routes()}[path]
    response = await handler(request)
    assert isinstance(response, web.Response)
    return response


def steering(placer: OnePlacer, *networks: str) -> Steering:
    settings = Settings()
    traefik = msgspec.structs.replace(settings.traefik, networks=networks or settings.traefik.networks)
    return Steering(msgspec.structs.replace(settings, traefik=traefik), placer, lambda: [Candidate(A)])


@pytest.mark.parametrize("path", ["/place", "/traefik/dynamic"])
async def test_strangers_are_refused_and_reserve_nothing(path: str) -> None:
    """Only loopback and traefik.networks may ask; forwarding headers make nobody trusted."""
    placer = OnePlacer()
    refusing = steering(placer, "10.1.0.0/16")
    headers = {"Sec-WebSocket-Key": "x" * 24, "X-Forwarded-For": "127.0.0.1"}
    for peer in ("203.0.113.7", "10.2.0.1"):
        response = await answer(refusing, path, peer, headers)
        assert response.status == 403
        assert b"traefik.networks" in response.body
    assert placer.asks == []
    for peer in ("127.0.0.1", "::1", "10.1.2.3"):
        assert (await answer(refusing, path, peer, headers)).status == 200


async def test_only_what_traefik_has_loaded_is_picked() -> None:
    """The marks in the question count; one without marks knows all. What is not picked is reserved on nobody."""
    placer = OnePlacer()
    asked = steering(placer)
    headers = {"Sec-WebSocket-Key": "x" * 24}
    for query, picked in (("", True), (f"?loaded={mark(A)}", True), (f"?loaded={mark('http://10.0.0.2:1')}", False)):
        response = await answer(asked, "/place", "127.0.0.1", headers, query)
        assert response.status == 200
        assert (PICK_HEADER in response.headers) == picked
    assert placer.dropped_count == len(placer.asks) - 2


@pytest.mark.parametrize("key", ["", "x" * 65])
async def test_no_key_or_an_absurd_one_reserves_nothing(key: str) -> None:
    """The answer is 200 without a pick."""
    placer = OnePlacer()
    response = await answer(steering(placer), "/place", "127.0.0.1", {"Sec-WebSocket-Key": key} if key else {})
    assert response.status == 200
    assert "X-Trunkline-Pick" not in response.headers
    assert placer.asks == []
