"""Durations from outside, a server's hints and the user's options, in virtual time: none becomes a storm or an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

Virtual = Callable[[str], Awaitable[Any]]
HOSTILE = ["0", "-5", "2 ** 31", "2 ** 32 + 1", "1e300", "'soon'", "null"]


@pytest.mark.parametrize("established", ["true", "false"])
async def test_a_goodbye_that_is_repeated_is_no_storm(virtual: Virtual, established: str) -> None:
    """A server that lets nobody stay is tried ever more slowly, and within an hour and a bit again."""
    for hint in HOSTILE:
        soon, late = await virtual(
            f"""peer.greet = (socket) => {{
                  if ({established}) socket.establish();
                  socket.end(1012, {{ reconnect_after_ms: {hint} }});
                }};
                await peer.connect();
                await clock.advance(600_000);
                const soon = peer.sockets.length;
                await clock.advance(3_600_000);
                return [soon, peer.sockets.length];"""
        )
        assert soon <= 60, hint
        assert soon < late <= 360, hint


async def test_a_hint_stands_alone_only_after_a_connection_that_stayed(virtual: Virtual) -> None:
    """The first goodbye is obeyed as it is, those at once after it are only the least of the wait."""
    waits = await virtual(
        """await peer.connect({ backoff: { min: 4000, max: 30000 }, stableAfterMs: 5000 });
           for (const stay of [6000, 0, 0, 6000]) {
             await clock.advance(stay);
             const count = peer.sockets.length;
             peer.socket.end(1012, { reconnect_after_ms: 20 });
             while (peer.sockets.length === count) await clock.advance(20);
           }
           return peer.states.filter((s) => s.retryInMs !== null).map((s) => s.retryInMs);"""
    )
    assert waits == [20, 4000, 8000, 20]


async def test_a_hint_longer_than_the_back_off_holds_although_nothing_stayed(virtual: Virtual) -> None:
    """The larger of both counts, and the browser's online event does not cut the server's pause short."""
    ats = await virtual(
        """peer.greet = (socket) => socket.end(1013, { reconnect_after_ms: 9000 });
           await peer.connect({ backoff: { min: 100, max: 400 } });
           await clock.advance(10_000);
           dispatchEvent(new Event("online"));
           await clock.advance(10_000);
           return peer.sockets.map((s) => s.at);"""
    )
    assert ats == [0, 9000, 18_000]


async def test_only_the_server_s_part_of_a_wait_holds_when_the_network_is_back(virtual: Virtual) -> None:
    """A hint of a second in a back-off of a minute: an online event during the second ends the wait after it."""
    ats = await virtual(
        """const online = () => dispatchEvent(new Event("online"));
           peer.greet = (socket) => socket.end(1012, { reconnect_after_ms: 1000 });
           await peer.connect({ backoff: { min: 60_000, max: 60_000 } });
           await clock.advance(1500);
           online();
           await clock.advance(1000);
           online();
           await clock.advance(10);
           return peer.sockets.map((s) => s.at);"""
    )
    assert ats == [0, 1000, 2000]


async def test_a_pause_of_the_server_holds_over_the_way_back(virtual: Virtual) -> None:
    """A page that is left during it and shown again waits for the rest."""
    ats = await virtual(
        """peer.greet = (socket) => socket.end(1012, { reconnect_after_ms: 9000 });
           await peer.connect();
           await clock.advance(1000);
           dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
           await clock.advance(1000);
           dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
           await clock.advance(7500);
           return peer.sockets.map((s) => s.at);"""
    )
    assert ats == [0, 9000]


@pytest.mark.parametrize("request_of", ["c.subscribe('news')", "gone.unsubscribe()"])
async def test_a_request_refused_for_ever_is_no_storm(virtual: Virtual, request_of: str) -> None:
    """Whatever retry_after_ms a refusal names, the request is repeated ever more slowly, and not given up."""
    for hint in HOSTILE:
        soon, late = await virtual(
            f"""peer.greet = (socket) => socket.establish({{ heartbeat_interval_ms: 0 }});
                const c = await peer.connect();
                const gone = c.subscribe("gone");
                await clock.advance(0);
                peer.answer = (message) => [refusal(message, "UNAVAILABLE", {{ retry_after_ms: {hint} }})];
                {request_of};
                await clock.advance(600_000);
                const soon = peer.received.length;
                await clock.advance(3_600_000);
                return [soon, peer.received.length];"""
        )
        assert soon <= 60, hint
        assert soon < late <= 360, hint


@pytest.mark.parametrize("code", [1008, 1013])
async def test_an_error_s_pause_before_a_close_is_a_hint_too(virtual: Virtual, code: int) -> None:
    """An error with retry_after_ms 0 and a close that asks for a pause, again and again, is no storm."""
    count = await virtual(
        f"""peer.greet = (socket) => {{
              socket.establish();
              socket.say({{ type: "error", code: "X", message: "", temporary: true, retry_after_ms: 0 }});
              socket.end({code});
            }};
            await peer.connect();
            await clock.advance(600_000);
            return peer.sockets.length;"""
    )
    assert 5 <= count <= 60


async def test_a_heartbeat_interval_of_any_size_is_no_storm(virtual: Virtual) -> None:
    """An interval that no timer can hold is watched with the longest one; one too short is backed off from."""
    for interval in ["2 ** 31", "1e300", "-1", "'x'", "1e-9"]:
        fired = await virtual(
            f"""peer.greet = (socket) => socket.establish({{ heartbeat_interval_ms: {interval} }});
                await peer.connect();
                await clock.advance(600_000);
                return clock.fired;"""
        )
        assert fired <= 200, interval


async def test_options_of_any_size_are_no_storm(virtual: Virtual) -> None:
    """What no timer can hold is the longest time it can; what is no time is the default."""
    for value in ["Infinity", "NaN", "2 ** 40", "0", "-1", "'500'", "null"]:
        early, count = await virtual(
            f"""const v = {value}, backoff = {{ min: v, max: v }};
                const c = await peer.connect({{ connectTimeoutMs: v, requestTimeoutMs: v, stableAfterMs: v, backoff }});
                peer.answer = () => [];
                let settled = false;
                c.publish("a", 1).catch(() => (settled = true));
                await clock.advance(20_000);
                const early = settled;
                peer.greet = () => {{}};
                peer.socket.end(1006);
                await clock.advance(600_000);
                return [early, peer.sockets.length];"""
        )
        assert not early, value
        assert count <= 40, value
