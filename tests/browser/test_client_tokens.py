"""What the browser client does about tokens that expire: it asks its function again, and nothing else changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

Virtual = Callable[[str], Awaitable[Any]]
EXPIRING = "peer.socket.say({ type: 'token_expiring', expires_in_ms: 30_000 })"
QUIET = "addEventListener('error', (e) => e.preventDefault());"


async def test_a_warning_is_answered_with_a_fresh_token(virtual: Virtual) -> None:
    """On the same connection, each time it is warned; who listens to "sent" does not see the token."""
    tokens, sockets, shown, first = await virtual(
        f"""let n = 0;
            const c = await peer.connect({{ token: async () => `t${{++n}}` }});
            const shown = [];
            c.on("sent", (m) => shown.push(m.token));
            c.subscribe("news");
            for (let time = 0; time < 2; time += 1) {{ {EXPIRING}; {EXPIRING}; await clock.advance(1000); }}
            return [peer.of("refresh").map((m) => m.token), peer.sockets.length, shown.filter(Boolean),
              peer.socket.protocols];"""
    )
    assert tokens == ["t2", "t3"]
    assert (sockets, shown, first) == (1, ["***", "***"], ["trunkline", "bearer.t1"])


async def test_a_token_function_that_fails_is_asked_again_with_back_off(virtual: Virtual) -> None:
    """Neither a failure, nor no token, nor the token that expires is sent; the fresh one is."""
    ats, sent = await virtual(
        f"""{QUIET}
            const answers = ["old", new Error("down"), null, "old", "fresh"], ats = [];
            await peer.connect({{ backoff: {{ min: 1000, max: 4000 }}, token: async () => {{
              ats.push(clock.time);
              const answer = answers.shift();
              if (answer instanceof Error) throw answer;
              return answer; }} }});
            {EXPIRING};
            await clock.advance(25_000);
            return [ats, peer.of("refresh").map((m) => [m.token, m.at])];"""
    )
    assert ats == [0, 0, 500, 1500, 3500]
    assert sent == [["fresh", 3500]]


async def test_a_fresh_token_that_is_refused_for_a_time_is_fetched_again(virtual: Virtual) -> None:
    """The server may not know its key yet: another is asked for after the server's pause, not the same sent again."""
    sent = await virtual(
        f"""{QUIET}
            let n = 0;
            await peer.connect({{ token: () => `t${{++n}}` }});
            const pause = {{ retry_after_ms: 4000 }};
            peer.answer = (m) => (m.token === "t2" ? [refusal(m, "UNAUTHORIZED", pause)] : null);
            {EXPIRING};
            await clock.advance(25_000);
            return peer.of("refresh").map((m) => [m.token, m.at]);"""
    )
    assert sent == [["t2", 0], ["t3", 4000]]


async def test_a_refresh_that_makes_no_sense_to_the_server_leaves_the_connection(virtual: Virtual) -> None:
    """A permanent error is not the end: the server would close with 4001 if it were."""
    sent, state = await virtual(
        f"""{QUIET}
            let n = 0;
            const c = await peer.connect({{ token: () => `t${{++n}}` }});
            peer.answer = (m) => (m.type === "refresh" ? [refusal(m, "FORBIDDEN", {{ temporary: false }})] : null);
            {EXPIRING};
            await clock.advance(25_000);
            return [peer.of("refresh").length, c.state];"""
    )
    assert (sent, state) == (1, "open")


async def test_an_expired_token_reconnects_and_recovers(virtual: Virtual) -> None:
    """4002: a fresh token, the same session, every subscription with its position; no gap, no error."""
    protocols, url, asked, seen = await virtual(
        """let n = 0;
           const c = await peer.connect({ token: () => `t${++n}` });
           const seen = [];
           c.subscribe("news", { onPublication: (data) => seen.push(data), onGap: () => seen.push("gap"),
             onError: (e) => seen.push(e.code) });
           await clock.advance(0);
           peer.socket.say({ type: "publication", channel: "news", epoch: "e", offset: 1, prev: 0, data: "one" });
           peer.socket.end(4002, { reconnect_after_ms: null });
           const ack = (m) => [{ type: "subscription_ack", id: m.id, subscribed: m.channels, count: 1, positions:
             { news: { epoch: "e", offset: 2, recovered: true, replayed: 1 } } },
             { type: "publication", channel: "news", epoch: "e", offset: 2, prev: 1, data: "two" }];
           peer.answer = (m) => (m.type === "subscribe" ? ack(m) : null);
           await clock.advance(1000);
           const { channels, recover } = peer.of("subscribe").at(-1);
           return [peer.socket.protocols, peer.socket.url, [channels, recover], seen];"""
    )
    assert protocols == ["trunkline", "bearer.t2"]
    assert "session=s" in url
    assert asked == [["news"], {"news": {"epoch": "e", "offset": 1}}]
    assert seen == ["one", "two"]


@pytest.mark.parametrize("when", ["at connect", "at refresh"])
async def test_only_a_function_that_fails_for_good_ends_it(virtual: Virtual, when: str) -> None:
    """An error with `temporary: false` closes with 4001; one without is tried again, for hours."""
    states = await virtual(
        f"""{QUIET}
            const {{ TrunklineError }} = await import("/trunkline.js");
            let fail = null;
            const c = await peer.connect({{ token: () => {{ if (fail) throw fail; return "t"; }} }});
            fail = new Error("down");
            if ("{when}" === "at connect") peer.socket.end(4002, {{}});
            else {EXPIRING};
            const states = [];
            await clock.advance(60_000);
            states.push(c.state);
            fail = new TrunklineError("UNAUTHORIZED", "logged out", false);
            await clock.advance(60_000);
            return [...states, c.state, peer.states.at(-1).code, peer.sockets[0].closedWith ?? null];"""
    )
    assert states[0] in ("open", "reconnecting")
    assert states[1:3] == ["closed", 4001]
    if when == "at refresh":
        assert states[3] == 1000


async def test_a_refused_fresh_token_ends_it_and_an_old_one_is_fetched_again(virtual: Virtual) -> None:
    """4001 to a token that was accepted before means that it has expired; to any other it is final."""
    offered, state = await virtual(
        """const tokens = ["t1", "t1", "t1", "t2", "t3"];
            const c = await peer.connect({ token: () => tokens.shift() });
            const refuse = (socket) => socket.end(4001, { reconnect: false });
            peer.greet = refuse;
            peer.socket.end(1006);
            await clock.advance(1500);
            peer.greet = (socket) => (socket.protocols[1] === "bearer.t2" ? socket.establish() : refuse(socket));
            await clock.advance(60_000);
            peer.socket.end(4002);
            await clock.advance(60_000);
            return [peer.sockets.map((s) => s.protocols[1].slice(7)), c.state];"""
    )
    assert offered == ["t1", "t1", "t1", "t2", "t3"]
    assert state == "closed"


async def test_a_fresh_token_whose_ack_was_lost_may_have_been_accepted(virtual: Virtual) -> None:
    """The connection is lost during the refresh; much later the function still gives that token, now expired."""
    offered, state = await virtual(
        """const tokens = ["t1", "t2", "t2", "t3"];
           const c = await peer.connect({ token: () => tokens.shift() });
           peer.answer = () => [];
           peer.socket.say({ type: "token_expiring", expires_in_ms: 30_000 });
           await clock.advance(0);
           const token = (socket) => socket.protocols[1].slice(7);
           const refuse = (socket) => socket.end(4001, { reconnect: false });
           peer.greet = (socket) => (token(socket) === "t3" ? socket.establish() : refuse(socket));
           peer.socket.end(1006);
           await clock.advance(10_000);
           return [[peer.of("refresh")[0].token, ...peer.sockets.map(token)], c.state];"""
    )
    assert offered == ["t2", "t1", "t2", "t3"]
    assert state == "open"


async def test_a_fresh_token_does_not_wait_behind_other_messages(virtual: Virtual) -> None:
    """The token would expire while a page's burst waits for its places in the rate."""
    at = await virtual(
        f"""let n = 0;
            const c = await peer.connect({{ token: () => `t${{++n}}` }});
            for (let count = 0; count < 400; count += 1) c.publish("a", count).catch(() => 0);
            {EXPIRING};
            await clock.advance(1000);
            return peer.of("refresh").map((m) => m.at);"""
    )
    assert at == [0]


@pytest.mark.parametrize("token", ["'t1'", "() => 't1'"])
async def test_4001_on_an_open_connection_is_final(virtual: Virtual, token: str) -> None:
    """Also where the token was accepted before; and a fixed token that is refused cannot be replaced."""
    count, state = await virtual(
        f"""const c = await peer.connect({{ token: {token} }});
            peer.socket.end(4001);
            await clock.advance(60_000);
            return [peer.sockets.length, c.state];"""
    )
    assert (count, state) == (1, "closed")


async def test_a_subscription_that_the_server_ends_is_reported(virtual: Virtual) -> None:
    """`unsubscribed` calls onError with its code and reason."""
    seen = await virtual(
        """const c = await peer.connect();
           const seen = [];
           c.subscribe("staff", { onError: (e) => seen.push([e.code, e.message, e.temporary]) });
           await clock.advance(0);
           peer.socket.say({ type: "unsubscribed", channel: "staff", code: "FORBIDDEN", reason: "not any more" });
           peer.socket.say({ type: "unsubscribed", channel: "other", code: "FORBIDDEN", reason: "not any more" });
           return seen;"""
    )
    assert seen == [["FORBIDDEN", "not any more", False]]
