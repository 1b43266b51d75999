"""What becomes of requests in virtual time: refused for a time, above the server's rate, many channels at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

Virtual = Callable[[str], Awaitable[Any]]
REQUESTS = [
    "c.publish('a', 1)",
    "c.replay('a', { since: 0 })",
    "c.request({ type: 'rpc', method: 'm', data: 1 })",
    "c.send({ type: 'rpc', id: 'mine', method: 'm', data: 1 })",
]
SETTLED = "(p) => p.then(() => 'done', (e) => [e.code, e.temporary, e.retryAfterMs, clock.time])"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RATE_LIMIT_EXCEEDED", "AN_APP_S_OWN"])
async def test_a_request_refused_for_a_time_is_sent_again(virtual: Virtual, code: str) -> None:
    """Every kind of request, with the same id, after the server's pause and then with back-off, until it is taken."""
    for request in REQUESTS:
        ats, result = await virtual(
            f"""const c = await peer.connect({{ backoff: {{ min: 1000, max: 8000 }} }});
                peer.answer = (message) =>
                  (peer.received.length < 4 ? [refusal(message, "{code}", {{ retry_after_ms: 300 }})] : null);
                const result = ({SETTLED})({request});
                await clock.advance(20_000);
                if (new Set(peer.received.map((m) => m.id)).size > 1) throw new Error("not the same request");
                return [peer.received.map((m) => m.at), await result];"""
        )
        assert ats == [0, 300, 800, 1800], request
        assert result == "done", request


async def test_a_request_that_stays_refused_ends_with_the_refusal(virtual: Virtual) -> None:
    """After the time-out, at a cut, or at once when the pause is longer than that, as something that was not done."""
    late, cut, at_once, closed = await virtual(
        f"""const settled = {SETTLED};
            const c = await peer.connect({{ requestTimeoutMs: 10_000 }});
            let pause = 2000;
            peer.answer = (message) => [refusal(message, "UNAVAILABLE", {{ retry_after_ms: pause }})];
            const late = settled(c.publish("a", 1));
            await clock.advance(15_000);
            const cut = settled(c.publish("a", 1));
            await clock.advance(500);
            peer.socket.end(1006);
            await clock.advance(4500);
            pause = 10_000;
            const atOnce = settled(c.publish("a", 1));
            await clock.advance(1000);
            pause = 2000;
            const closed = settled(c.publish("a", 1));
            await clock.advance(500);
            c.close();
            return Promise.all([late, cut, atOnce, closed]);"""
    )
    assert late == ["UNAVAILABLE", True, 2000, 8000]
    assert cut == ["UNAVAILABLE", True, 2000, 15_500]
    assert at_once == ["UNAVAILABLE", True, 10_000, 20_000]
    assert closed == ["CLOSED", False, None, 21_500]


async def test_an_unanswered_or_finally_refused_request_is_not_sent_again(virtual: Virtual) -> None:
    """It may have taken effect, or it never will."""
    count, lost, refused = await virtual(
        f"""const settled = {SETTLED};
            const c = await peer.connect();
            peer.answer = () => [];
            const lost = settled(c.publish("a", 1));
            await clock.advance(30_000);
            peer.answer = (message) => [refusal(message, "FORBIDDEN", {{ temporary: false }})];
            const refused = settled(c.publish("a", 1));
            await clock.advance(30_000);
            return [peer.of("publish").length, await lost, await refused];"""
    )
    assert (count, lost[0], refused[0]) == (2, "TIMEOUT", "FORBIDDEN")


async def test_a_burst_above_the_server_s_rate_waits_for_its_places(virtual: Virtual) -> None:
    """250 at once with 100 free and 10 a second: the server refuses none, the order is kept, the rest takes 15 s."""
    refusals, offsets, took, done = await virtual(
        """const c = await peer.connect();
           peer.answer = peer.limited();
           let done = 0;
           for (let n = 0; n < 250; n += 1) c.publish("a", n).then(() => (done += 1));
           await clock.advance(15_200);
           const sent = peer.of("publish");
           return [peer.refusals, sent.map((m) => m.data), sent.at(-1).at, done];"""
    )
    assert refusals == 0
    assert offsets == list(range(250))
    assert 15_000 <= took <= 15_100
    assert done == 250


async def test_what_would_wait_beyond_its_time_out_is_refused_at_once(virtual: Virtual) -> None:
    """100,000 at once: what has no place within 30 s rejects now, takes no place, and the rest goes on."""
    early, done, later = await virtual(
        f"""const settled = {SETTLED};
            const c = await peer.connect();
            peer.answer = peer.limited();
            const results = [];
            const keep = (p) => p.then(() => results.push("done"), (e) => results.push(e));
            for (let n = 0; n < 100_000; n += 1) keep(c.publish("a", n));
            await clock.advance(0);
            const early = results.filter((e) => e.code === "RATE_LIMIT_EXCEEDED" && e.temporary).length;
            await clock.advance(40_000);
            const later = settled(c.publish("a", 1));
            await clock.advance(0);
            return [early, results.filter((r) => r === "done").length, await later];"""
    )
    assert done + early == 100_000
    assert 397 <= done <= 400
    assert later == "done"


@pytest.mark.parametrize("hinted", ["true", "false"])
async def test_a_server_that_counts_otherwise_is_believed(virtual: Virtual, hinted: str) -> None:
    """A server with less room than it said, as one that counts per user: every request is served all the same."""
    refusals, done = await virtual(
        f"""const c = await peer.connect({{ requestTimeoutMs: 60_000 }});
            peer.answer = peer.limited({{ rate_burst: 5, rate_per_s: 5 }}, {hinted});
            let done = 0;
            for (let n = 0; n < 100; n += 1) c.publish("a", n).then(() => (done += 1), () => 0);
            await clock.advance(60_000);
            return [peer.refusals, done];"""
    )
    assert done == 100
    assert refusals <= 300


async def test_many_channels_are_left_with_one_message(virtual: Virtual) -> None:
    """300 unsubscribes at once are one request, which is sent again while it is refused; nothing stays subscribed."""
    asked = await virtual(
        """const c = await peer.connect();
           const names = Array.from({ length: 300 }, (_, n) => `news.${n}`);
           const subscriptions = names.map((name) => c.subscribe(name));
           await clock.advance(0);
           let refusals = 2;
           peer.answer = (message) => (refusals-- > 0 ? [refusal(message, "RATE_LIMIT_EXCEEDED")] : null);
           for (const subscription of subscriptions) subscription.unsubscribe();
           await clock.advance(30_000);
           return peer.received.map((m) => [m.type, m.channels.length, new Set(m.channels).size]);"""
    )
    assert asked == [["subscribe", 300, 300]] + [["unsubscribe", 300, 300]] * 3


async def test_unsubscribing_is_split_at_the_server_s_message_limit(virtual: Virtual) -> None:
    """No message is larger than message_bytes, and together they name every channel."""
    names, largest = await virtual(
        """peer.limits = { ...peer.limits, message_bytes: 1000 };
           const c = await peer.connect();
           const held = Array.from({ length: 200 }, (_, n) => c.subscribe(`channel.${n}`));
           await clock.advance(0);
           for (const subscription of held) subscription.unsubscribe();
           await clock.advance(0);
           const sent = peer.of("unsubscribe");
           const sizes = sent.map((m) => JSON.stringify(m).length);
           return [sent.flatMap((m) => m.channels).length, Math.max(...sizes)];"""
    )
    assert names == 200
    assert 500 < largest < 1000


async def test_what_is_wanted_again_is_not_left(virtual: Virtual) -> None:
    """Of a refused unsubscribe only what is still not wanted is repeated, and of a refused subscribe what still is."""
    left, wanted = await virtual(
        """const c = await peer.connect();
           const a = c.subscribe("a"), b = c.subscribe("b");
           await clock.advance(0);
           let refuse = true;
           peer.answer = (message) => (refuse ? [refusal(message, "UNAVAILABLE", { retry_after_ms: 1000 })] : null);
           a.unsubscribe();
           b.unsubscribe();
           const d = c.subscribe("d");
           await clock.advance(500);
           refuse = false;
           c.subscribe("a");
           d.unsubscribe();
           await clock.advance(60_000);
           const names = (type) => peer.of(type).map((m) => m.channels.join());
           return [names("unsubscribe"), names("subscribe")];"""
    )
    assert left == ["a,b", "d", "b"]
    assert wanted == ["a,b", "d", "a"]


async def test_leaving_and_coming_back_in_one_task_is_done_in_that_order(virtual: Virtual) -> None:
    """Unsubscribe, then subscribe: the new subscription gets an ack of its own; the reverse sends nothing."""
    asked = await virtual(
        """const c = await peer.connect();
           const a = c.subscribe("a");
           await clock.advance(0);
           a.unsubscribe();
           c.subscribe("a");
           c.subscribe("b").unsubscribe();
           await clock.advance(0);
           return peer.received.map((m) => [m.type, m.channels.join()]);"""
    )
    assert asked == [["subscribe", "a"], ["unsubscribe", "a"], ["subscribe", "a"]]


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
async def test_one_bad_name_among_many_costs_few_messages(virtual: Virtual, kind: str) -> None:
    """The server refuses a request as a whole: it is halved until the bad name stands alone."""
    count, served, bad = await virtual(
        f"""const c = await peer.connect();
            const names = Array.from({{ length: 500 }}, (_, n) => (n === 137 ? "bad name" : `good.${{n}}`));
            let served = new Set();
            peer.answer = (message) => {{
              const fault = message.type === "{kind}" && message.channels.includes("bad name");
              if (fault) return [refusal(message, "INVALID_MESSAGE", {{ temporary: false }})];
              if (message.type === "{kind}") for (const name of message.channels) served.add(name);
              return null;
            }};
            const bad = [];
            const held = names.map((name) => c.subscribe(name, {{ onError: () => bad.push(name) }}));
            await clock.advance(5000);
            if ("{kind}" === "unsubscribe") for (const subscription of held) subscription.unsubscribe();
            await clock.advance(30_000);
            return [peer.of("{kind}").length, served.size, bad];"""
    )
    assert count <= 20
    assert served == 499
    assert bad == (["bad name"] if kind == "subscribe" else [])


async def test_requests_under_way_do_not_outlive_their_connection(virtual: Virtual) -> None:
    """What was refused on one connection is not repeated on the next: the next subscribes to what is wanted then."""
    asked = await virtual(
        """const c = await peer.connect();
           const a = c.subscribe("a");
           c.subscribe("b");
           await clock.advance(0);
           peer.answer = (message) => [refusal(message, "UNAVAILABLE", { retry_after_ms: 5000 })];
           a.unsubscribe();
           c.publish("b", 1).catch(() => 0);
           await clock.advance(100);
           peer.answer = () => null;
           peer.socket.end(1006);
           await clock.advance(60_000);
           return peer.received.map((m) => m.type + (m.channels ?? ""));"""
    )
    assert asked == ["subscribea,b", "publish", "unsubscribea", "subscribeb"]


async def test_only_a_refusal_is_sent_again(virtual: Virtual) -> None:
    """The server does not know whether the bus took it: the page decides; a subscribe can be asked again."""
    published, subscribed, result = await virtual(
        f"""const c = await peer.connect();
            let silent = true;
            peer.answer = (message) => (silent ? [refusal(message, "TIMEOUT")] : null);
            const result = ({SETTLED})(c.publish("a", 1));
            c.subscribe("a");
            await clock.advance(1000);
            silent = false;
            await clock.advance(60_000);
            return [peer.of("publish").length, peer.of("subscribe").length, await result];"""
    )
    assert published == 1
    assert subscribed >= 2
    assert result == ["TIMEOUT", True, None, 0]


async def test_an_application_s_own_limit_does_not_hold_up_other_requests(virtual: Virtual) -> None:
    """One export an hour, refused with the code of the message rate: what else the page sends goes out."""
    export, other = await virtual(
        f"""const settled = {SETTLED};
            const c = await peer.connect();
            const hour = {{ retry_after_ms: 3_600_000 }};
            peer.answer = (m) => (m.method === "export" ? [refusal(m, "RATE_LIMIT_EXCEEDED", hour)] : null);
            const refused = settled(c.request({{ type: "rpc", method: "export" }}));
            await clock.advance(0);
            const other = settled(c.publish("a", 1));
            await clock.advance(2000);
            return [await refused, await other];"""
    )
    assert export == ["RATE_LIMIT_EXCEEDED", True, 3_600_000, 0]
    assert other == "done"


async def test_messages_that_the_server_drops_do_not_hold_up_requests(virtual: Virtual) -> None:
    """Of 1,000 at once without an id 900 are too many, and take no place: a request goes out when there is room."""
    at, result = await virtual(
        f"""const settled = {SETTLED};
            const c = await peer.connect();
            peer.answer = peer.limited();
            for (let n = 0; n < 1000; n += 1) c.send({{ type: "cursor", n }});
            const result = settled(c.publish("a", 1));
            await clock.advance(1000);
            return [peer.of("publish").map((m) => m.at), await result];"""
    )
    assert at == [200]
    assert result == "done"
