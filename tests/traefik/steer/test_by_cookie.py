"""Picks for a Traefik whose routes are not ours: they come in the sticky cookie of its own service."""

from __future__ import annotations

import pytest

from tests.traefik.steer.test_askers import A, OnePlacer, answer, steering
from trunkline.placement.backend import short_id
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.traefik.steer.by_cookie import asked_cookie, with_pick
from trunkline.traefik.steer.layers import PICK_HEADER

TRAEFIK = "10.1.2.3"
KEY = {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw=="}


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", None),
        ("loaded=abc", None),
        ("cookie=lb", "lb"),
        ("cookie=__Host-lb&x=1", "__Host-lb"),
        ("cookie=", None),
        ("cookie=a%3Bb", None),
        ("cookie=a%0D%0Ab", None),
        (f"cookie={'a' * 101}", None),
    ],
)
def test_which_cookie_is_meant(query: str, name: str | None) -> None:
    assert asked_cookie(query) == name


@pytest.mark.parametrize(
    ("cookies", "answered"),
    [
        ("", "lb=s"),
        ("a=1; b=2", "lb=s; a=1; b=2"),
        ("a=1; lb=forged; b=2", "lb=s; a=1; b=2"),
        (" lb = forged ;; a=1", "lb=s; a=1"),
        ("lb; lbx=1", "lb=s; lbx=1"),
    ],
)
def test_own_cookies_stay_and_a_choice_of_the_client_goes(cookies: str, answered: str) -> None:
    assert with_pick(cookies, "lb", "s") == answered


async def test_a_handshake_gets_its_pick_in_the_cookie() -> None:
    placer = OnePlacer()
    got = await answer(steering(placer), "/place", TRAEFIK, KEY | {"Cookie": "session=7; lb=forged"}, "?cookie=lb")
    assert got.status == 200
    assert got.headers["Cookie"] == f"lb={short_id(A)}; session=7"
    assert PICK_HEADER not in got.headers
    assert placer.asks[0].key == KEY["Sec-WebSocket-Key"]


@pytest.mark.parametrize("headers", [{}, {"Sec-WebSocket-Key": "k" * 65}])
async def test_every_request_gets_one_and_reserves_nothing_without_a_key(headers: dict[str, str]) -> None:
    """Plain HTTP too: Traefik by itself would send it to a held colour as well."""
    placer = OnePlacer()
    got = await answer(steering(placer), "/place", TRAEFIK, headers, "?cookie=lb")
    assert got.headers["Cookie"] == f"lb={short_id(A)}"
    assert [ask.key for ask in placer.asks] == [""]


@pytest.mark.parametrize("reason", ["full", "no_backend", "all_down"])
async def test_without_a_pick_it_is_refused(reason: str) -> None:
    """Steered by header only a full fleet refuses; here Traefik's own choice could be a pod of a held colour."""

    class Refusing(OnePlacer):
        def place(self, ask: Ask) -> Pick | Refusal:  # type: ignore[override]
            return Refusal(503, reason, "There is none.", 2.5)

    got = await answer(steering(Refusing()), "/place", TRAEFIK, KEY, "?cookie=lb")
    assert (got.status, got.headers["Retry-After"]) == (503, "3")
    assert "Cookie" not in got.headers


async def test_only_traefik_may_ask() -> None:
    got = await answer(steering(OnePlacer()), "/place", "203.0.113.9", KEY, "?cookie=lb")
    assert got.status == 403
