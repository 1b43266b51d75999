"""The real Traefik, steered: even picks, retries, failing open, refusals, stickiness, reloads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.free_ports import free_port
from tests.support.traefik.live_traefik import TRAEFIK
from tests.support.traefik.steered_fleet import Backend, Opened, SteeredFleet
from trunkline.placement.backend import short_id
from trunkline.placement.placing import Refusal
from trunkline.settings.balancer import RouteEntry
from trunkline.traefik.steer.published import Candidate

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed (pip install 'trunkline[traefik]')")

Start = Callable[..., Awaitable[SteeredFleet]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a steered fleet; `start(3, sticky_cookie="lb")`."""
    started: list[SteeredFleet] = []

    async def make(count: int = 3, traefik: dict[str, Any] | None = None, **balancer: Any) -> SteeredFleet:
        fleet = await SteeredFleet.start(tmp_path, count, balancer, traefik)
        started.append(fleet)
        return fleet

    yield make
    for fleet in started:
        await fleet.stop()


async def burst(fleet: SteeredFleet, count: int) -> list[Opened]:
    opened = await asyncio.gather(*(fleet.connect() for _ in range(count)))
    assert {one.status for one in opened} == {101}
    return opened


async def test_a_burst_lands_evenly_and_where_it_was_placed(start: Start) -> None:
    """60 handshakes at once end as 20 on each backend, each with the key that was placed there."""
    fleet = await start()
    opened = await burst(fleet, 60)
    assert sorted(Counter(one.backend for one in opened).values()) == [20, 20, 20]
    for one in opened:
        assert fleet.placer.picks[one.key] == [fleet.backend(one.backend).url]
        assert one.key in fleet.backend(one.backend).keys
    assert fleet.steering.meter.answers.values == {("picked",): 60}
    assert fleet.steering.meter.place.count == 60


async def test_the_backend_gets_the_clients_request_and_nothing_of_ours(start: Start) -> None:
    """Cookies arrive byte for byte, a forged pick is ignored, and no header of the steering reaches the backend."""
    fleet = await start()
    cookies = 'a=1; theme="dark mode"; b==;c'
    forged = short_id(fleet.backends[2].url)
    one = await fleet.connect("/ws?x=%20y", {"Cookie": cookies, "X-Trunkline-Pick": forged})
    seen = fleet.backend(one.backend).handshakes[-1]
    assert fleet.placer.picks[one.key] == [fleet.backends[0].url] == [fleet.backend(one.backend).url]
    assert seen.headers["cookie"] == cookies
    assert seen.target == "/ws?x=%20y"
    assert not [name for name in seen.headers if "trunkline" in name]
    assert "set-cookie" not in one.headers


async def test_another_backend_is_picked_for_a_retry(start: Start) -> None:
    """A dead backend costs the client nothing: the next attempt goes elsewhere, and the placer hears of it."""
    fleet = await start()
    fleet.backends[0].refuse_new()
    one = await fleet.connect()
    assert one.status == 101
    assert fleet.placer.failures == [(fleet.backends[0].url, "retry")]
    assert [ask.tried for ask in fleet.placer.asks] == [(), (fleet.backends[0].url,)]
    assert fleet.placer.picks[one.key][-1] == fleet.backend(one.backend).url
    assert fleet.steering.meter.repeated == 1


async def test_a_key_used_twice_does_not_lock_its_client_out(start: Start) -> None:
    """A client that always sends the same key is connected each time."""
    fleet = await start(2)
    for _ in range(7):
        one = await fleet.connect(key="dGhlIHNhbXBsZSBub25jZQ==")
        assert one.status == 101


async def test_without_the_balancer_connections_still_succeed(start: Start) -> None:
    """With the balancer gone Traefik balances by itself, cookies arrive, and open connections do not notice."""
    fleet = await start()
    before = await fleet.connect()
    await fleet.balancer_gone()
    opened = [await fleet.connect(headers={"Cookie": "a=1; b=2"}) for _ in range(30)]
    assert {one.status for one in opened} == {101}
    spread = Counter(one.backend for one in opened)
    assert len(spread) == 3
    assert max(spread.values()) <= 16
    assert all(fleet.backend(one.backend).handshakes[-1].headers["cookie"] == "a=1; b=2" for one in opened)
    assert await before.echoes()
    await fleet.balancer_back()
    asked = len(fleet.placer.asks)
    again = await burst(fleet, 6)
    assert len(fleet.placer.asks) == asked + 6
    assert all(fleet.placer.picks[one.key] == [fleet.backend(one.backend).url] for one in again)


async def test_a_new_balancer_knows_what_traefik_has_loaded(start: Start) -> None:
    """While Traefik waits to fetch again, nobody is sent to a node that it does not know, and picks land as made."""
    fleet = await start(2)
    await burst(fleet, 4)
    await fleet.balancer_gone()
    new = await Backend.start()
    fleet.backends.append(new)
    fleet.placer.counts[new.url] = 0
    fleet.candidates = [*fleet.candidates, Candidate(new.url)]
    await fleet.balancer_back(fetched=False)
    opened = await burst(fleet, 8)
    assert Counter(one.backend for one in opened) == {backend.port: 4 for backend in fleet.backends[:2]}
    assert all(fleet.placer.picks[one.key][-1] == fleet.backend(one.backend).url for one in opened)
    assert fleet.placer.counts[new.url] == 0
    await fleet.balancer_gone()
    await fleet.balancer_back()
    await fleet.loaded()
    assert {one.backend for one in await burst(fleet, 4)} == {new.port}


async def test_a_match_stays_together_over_a_change_of_balancer(start: Start) -> None:
    """A home that Traefik does not know yet is no home: all players of the match go to the same other node."""
    fleet = await start(2)
    await fleet.balancer_gone()
    new = await Backend.start()
    fleet.backends.append(new)
    fleet.candidates = [*fleet.candidates, Candidate(new.url)]
    fleet.placer.counts[new.url] = 0
    fleet.placer.matches["m"] = new.url
    await fleet.balancer_back(fetched=False)
    opened = [await fleet.connect("/api/match/game?matchId=m") for _ in range(4)]
    assert {one.status for one in opened} == {101}
    assert new.url in fleet.placer.dropped_urls


async def test_a_balancer_that_hangs_or_breaks_fails_open(start: Start) -> None:
    """No answer in time and an answer of 500 both leave the choice to Traefik."""
    fleet = await start()
    fleet.placer.hangs = True
    assert (await fleet.connect()).status == 101
    fleet.placer.hangs = False
    fleet.placer.breaks = True
    assert (await fleet.connect()).status == 101


NONSENSE = {
    "nothing": b"",
    "garbage": b"\x00\x01 nonsense \xff\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://x.test/\r\nSet-Cookie: a=9\r\nContent-Length: 0\r\n\r\n",
    "stranger": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "unknown pick": b"HTTP/1.1 200 OK\r\nX-Trunkline-Pick: 0123456789abcdef\r\nContent-Length: 0\r\n\r\n",
    "long head": b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 2_000_000 + b"\r\n\r\n",
}


async def test_nonsense_in_the_balancers_place_fails_open(start: Start) -> None:
    """Whatever else listens on the balancer's port: clients get in, with their cookies and nobody's pick."""
    fleet = await start()
    await fleet.balancer_gone()
    answer = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An empty 200 to the fetch of the configuration would be a valid one, with no routes.
        if b"/place" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer)
        writer.close()

    port = int(fleet.settings.traefik.balancer_url.rpartition(":")[2])
    forged = {"Cookie": "a=1; b=2", "X-Trunkline-Pick": short_id(fleet.backends[0].url)}
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        for what, said in NONSENSE.items():
            answer = said
            met = set()
            for _ in range(3):
                one = await fleet.connect(headers=forged)
                assert (what, one.status, one.headers.get("set-cookie")) == (what, 101, None)
                seen = fleet.backend(one.backend).handshakes[-1].headers
                assert (seen["cookie"], "x-trunkline-pick" in seen) == ("a=1; b=2", False)
                met.add(one.backend)
            assert len(met) > 1, what


async def test_clients_cannot_reach_the_balancer_through_traefik(start: Start) -> None:
    """What the balancer answers to Traefik leads to a backend when a client asks for it."""
    fleet = await start()
    for path in ("/place", "/place/", "/traefik/dynamic", "/balancer-metrics", "/ping", "/api/overview"):
        assert (await fleet.connect(path, ws=False)).backend in {backend.port for backend in fleet.backends}
    assert fleet.placer.asks == []


async def test_a_route_for_all_names_below_one(start: Start) -> None:
    """A host with a star takes every name below it in any spelling, and not that name itself."""
    fleet = await start(routes=(RouteEntry("/in", host="*.Example.test", rewrite="/out"),))
    for host, target in (
        ("a.example.test", "/out"), ("A.B.Example.TEST:8080", "/out"), ("example.test", "/in"),
        ("badexample.test", "/in"), ("a.example.test.evil.test", "/in"),
    ):  # fmt: skip
        one = await fleet.connect("/in", headers={"Host": host})
        assert (host, fleet.backend(one.backend).handshakes[-1].target) == (host, target)


async def test_a_head_too_long_for_the_balancer_fails_open(start: Start) -> None:
    """A target longer than the balancer's HTTP server takes does not cost the connection."""
    fleet = await start()
    assert (await fleet.connect("/ws?" + "x" * 20_000)).status == 101


async def test_a_full_fleet_refuses_the_client(start: Start) -> None:
    """The client itself gets 503, Retry-After and the sentence; no fallback swallows them."""
    fleet = await start()
    fleet.placer.refusal = Refusal(503, "full", "All backends are full.", 6.3)
    one = await fleet.connect()
    assert (one.status, one.headers["retry-after"], one.body) == (503, "7", "All backends are full.\n")
    assert "Python" not in one.headers.get("server", "")
    assert not any(backend.keys for backend in fleet.backends)


@pytest.mark.parametrize("reason", ["no_backend", "all_down"])
async def test_a_balancer_that_sees_no_backend_leaves_the_choice_to_traefik(start: Start, reason: str) -> None:
    """A balancer that is cut off, or has just started, refuses nobody."""
    fleet = await start()
    fleet.placer.refusal = Refusal(503, reason, "none", 1.0)
    assert (await fleet.connect()).status == 101


async def test_a_removed_backend_keeps_its_open_connections(start: Start) -> None:
    """After the reload new connections go elsewhere, and the open one still carries bytes."""
    fleet = await start()
    gone = fleet.backends[0]
    stays = await fleet.connect()
    assert stays.backend == gone.port
    fleet.candidates = [candidate for candidate in fleet.candidates if candidate.url != gone.url]
    del fleet.placer.counts[gone.url]
    await fleet.loaded()
    opened = await burst(fleet, 8)
    assert gone.port not in {one.backend for one in opened}
    assert await stays.echoes()


async def test_a_new_backend_is_picked_only_when_traefik_knows_it(start: Start) -> None:
    """Until the reload its picks go to the others, and afterwards each pick lands on it."""
    fleet = await start(2)
    for _ in range(4):
        await fleet.connect()
    new = await Backend.start()
    fleet.backends.append(new)
    fleet.placer.counts[new.url] = 0
    first = await fleet.connect()
    assert first.backend != new.port
    assert fleet.placer.dropped_urls == [new.url]
    fleet.candidates = [*fleet.candidates, Candidate(new.url)]
    await fleet.loaded()
    second = await fleet.connect()
    assert second.backend == new.port


async def test_a_down_server_takes_part_in_nothing_but_picks(start: Start) -> None:
    """While the balancer is gone, Traefik sends nobody to a server that was published as unusable."""
    fleet = await start()
    fleet.candidates[0] = Candidate(fleet.backends[0].url, usable=False)
    fleet.candidates[1] = Candidate(fleet.backends[1].url, draining=True)

    async def loaded() -> bool:
        return await fleet.open_servers() == {fleet.backends[2].url}

    await fleet.until(loaded, "one open server")
    picked = await fleet.connect()
    assert picked.backend == fleet.backends[0].port
    await fleet.balancer_gone()
    assert {one.backend for one in await burst(fleet, 9)} == {fleet.backends[2].port}


async def test_a_match_stays_together_over_both_its_paths(start: Start) -> None:
    """Players of a match, and plain HTTP about it, reach one backend, whichever path they take; it is rewritten."""
    fleet = await start()
    placed = {}
    for match in range(6):
        for path in ("/api/match/game", "/api/game"):
            one = await fleet.connect(f"{path}?matchId=m{match}")
            plain = await fleet.connect(f"{path}?matchId=m{match}", ws=False)
            assert plain.status == 200
            assert placed.setdefault(match, one.backend) == one.backend == plain.backend
            assert {seen.target for seen in fleet.backend(one.backend).seen[-2:]} == {f"/api/game?matchId=m{match}"}
    assert len(set(placed.values())) == 3
    assert sum(1 for ask in fleet.placer.asks if not ask.key) == 12


async def test_plain_http_is_not_asked_for(start: Start) -> None:
    """Outside of affinity routes plain HTTP costs no question."""
    fleet = await start()
    assert (await fleet.connect("/page", ws=False)).status == 200
    assert fleet.placer.asks == []
    assert fleet.steering.meter.place.count == 0


async def test_a_sticky_client_comes_back_to_its_backend(start: Start) -> None:
    """The 101 sets the cookie, the cookie brings the client back, and also while the balancer is gone."""
    fleet = await start(sticky_cookie="lb", sticky_secure=False)
    await fleet.connect()
    first = await fleet.connect()
    cookie, *attributes = first.headers["set-cookie"].split("; ")
    assert cookie == "lb=" + short_id(fleet.backend(first.backend).url)
    assert {"HttpOnly", "SameSite=Lax"} <= set(attributes)
    for _ in range(4):
        again = await fleet.connect(headers={"Cookie": f"a=1; {cookie}"})
        assert again.backend == first.backend
        assert "set-cookie" not in again.headers
    await fleet.balancer_gone()
    for _ in range(4):
        assert (await fleet.connect(headers={"Cookie": f"a=1; {cookie}"})).backend == first.backend


async def test_a_traefik_that_starts_anew_is_steered_again(start: Start) -> None:
    """Traefik's end and new start need nothing of the balancer: the next burst is even again."""
    fleet = await start()
    await burst(fleet, 3)
    await fleet.start_traefik()
    assert sorted(Counter(one.backend for one in await burst(fleet, 30)).values()) == [10, 10, 10]


async def test_steering_works_with_every_other_part_switched_on(start: Start) -> None:
    """TLS, rate limit, headers, compression and circuit breaker stand before the pick and do not hinder it."""
    fleet = await start(
        traefik={
            "https_port": free_port(),
            "rate_per_s": 1000.0,
            "rate_burst": 1000.0,
            "compress": True,
            "circuit_breaker": "NetworkErrorRatio() > 0.5",
            "security_headers": True,
        }
    )
    opened = [await fleet.connect(tls=True) for _ in range(9)]
    assert {one.status for one in opened} == {101}
    assert sorted(Counter(one.backend for one in opened).values()) == [3, 3, 3]
    assert all(fleet.backend(one.backend).handshakes[-1].headers["x-forwarded-proto"] == "wss" for one in opened)
    plain = await fleet.connect("/api/game?matchId=1", tls=True, ws=False)
    assert plain.status == 200
    assert not [line for line in fleet.log if " ERR " in line]


async def test_the_placer_learns_the_clients_address_behind_a_proxy(start: Start) -> None:
    """X-Forwarded-For counts when Traefik trusts the proxy, and the hop of Traefik asking itself is no client."""
    fleet = await start(traefik={"trusted_proxies": ("127.0.0.1/32",)})
    await fleet.connect(headers={"X-Forwarded-For": "203.0.113.9"})
    assert fleet.placer.asks[-1].address == "203.0.113.9"


async def test_names_on_loopback(start: Start) -> None:
    """A page that gives this machine a name of its own gets a 400 that names the settings, and opens nothing."""
    fleet = await start(1, traefik={"host": "127.0.0.1"}, hosts=("own.test",))
    port = fleet.settings.traefik.http_port
    for host in (f"LOCALHOST:{port}", "a.localhost.", "127.9.9.9", f"[::1]:{port}", f"own.test:{port}"):
        assert (await fleet.connect(headers={"Host": host})).status == 101
    seen = len(fleet.backends[0].seen)
    claim = {"X-Forwarded-For": "10.0.0.1"}
    for host in (f"evil.test:{port}", "127.0.0.1.evil.test", "localhost.evil.test", "a.own.test", "10.0.0.1"):
        for headers in ({}, claim, {**claim, "Connection": "Upgrade, X-Forwarded-For"}):
            for ws in (True, False):
                answer = await fleet.connect("/metrics?a=b", {"Host": host, **headers}, ws=ws)
                assert answer.status == 400
                assert all(word in answer.body for word in (host, "balancer.hosts", "traefik.trusted_proxies"))
    assert len(fleet.backends[0].seen) == seen


async def test_a_proxy_before_traefik_may_use_any_name(start: Start) -> None:
    """What a trusted proxy forwarded is served under the name that its client used."""
    fleet = await start(1, traefik={"host": "127.0.0.1", "trusted_proxies": ("127.0.0.1/32",)})
    assert (await fleet.connect(headers={"Host": "live.test", "X-Forwarded-For": "203.0.113.9"})).status == 101
    assert (await fleet.connect(headers={"Host": "live.test"})).status == 400
