"""How the browser client comes, goes and comes back: states, close codes, back-off, hints, tokens, requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest

from tests.support.patience import patient
from tests.support.scripted_peer import Client, Peer, Wire, publication

codes = pytest.importorskip("trunkline.protocol.close_codes", reason="the package is not importable")

pytestmark = pytest.mark.asyncio(loop_scope="session")

Virtual = Callable[[str], Awaitable[Any]]


async def test_the_close_codes_agree_with_the_server_s_table(client: Client) -> None:
    """For every row of the server's table the client makes the same choice, reconnect or not."""
    await client.run("import('/trunkline.js').then((m) => { window.T = m })")
    for row in codes.TABLE:
        plan = await client.run(
            f"T.afterClose({{code: {row.code}, attempt: 0, goodbye: null, retryAfterMs: null}}, "
            "{min: 500, max: 30000}, () => 0.5)"
        )
        assert plan["reconnect"] is row.may_reconnect, row


async def test_the_back_off_is_full_jitter_up_to_its_ceiling(client: Client) -> None:
    """The ceiling doubles with each attempt up to max, and the delay is uniform below it."""
    delays = await client.run(
        """import('/trunkline.js').then(({ backoffDelay }) =>
          [0, 1, 2, 6, 50].map((n) => backoffDelay(n, { min: 500, max: 30000 }, () => 0.5)))"""
    )
    assert delays == [250, 500, 1000, 15_000, 15_000]


@pytest.mark.parametrize(
    ("close", "delay"),
    [
        ("code: 1006, goodbye: null, retryAfterMs: 70", 250),  # that pause spoke of one message, not of this close
        ("code: 1013, goodbye: null, retryAfterMs: 70", 70),
        ("code: 1008, goodbye: null, retryAfterMs: null", 2000),
        ("code: 1013, goodbye: {reconnect: true, reconnect_after_ms: 9}, retryAfterMs: 70", 9),
        ("code: 1001, goodbye: {reconnect: true, reconnect_after_ms: null}, retryAfterMs: null", 250),
        ("code: 4100, goodbye: {reconnect: true, reconnect_after_ms: 5}, retryAfterMs: null", 5),
        ("code: 4100, goodbye: null, retryAfterMs: null", None),
        ("code: 1012, goodbye: {reconnect: false}, retryAfterMs: null", None),
        ("code: 4001, goodbye: {reconnect: true, reconnect_after_ms: 5}, retryAfterMs: null", None),
    ],
)
async def test_what_follows_a_close(client: Client, close: str, delay: int | None) -> None:
    """The code, the goodbye and an error's pause decide together; None stands for closed."""
    plan = await client.run(
        "import('/trunkline.js').then(({ afterClose }) => "
        f"afterClose({{attempt: 0, {close}}}, {{min: 500, max: 30000}}, () => 0.5))"
    )
    assert (plan["delay"] if plan["reconnect"] else None) == delay


async def test_states_are_told_in_order_and_the_url_is_masked(client: Client) -> None:
    """connecting, open, reconnecting, open again; the token of the query never shows."""
    wire = await client.opened("/ws?token=secret&x=1")
    assert "token=secret" in wire.path
    wire.cut()
    wire = await client.peer.accept()
    await wire.establish()
    await client.until("c.state === 'open'")

    states = await client.run("states")

    assert [s["state"] for s in states] == ["connecting", "open", "reconnecting", "reconnecting", "open"]
    assert states[2]["code"] == 1006
    assert all("secret" not in s["url"] and "token=***" in s["url"] for s in states)


async def test_a_goodbye_s_delay_is_kept_for_that_one_reconnect(client: Client, peer: Peer) -> None:
    """`reconnect_after_ms` replaces the back-off once; the failure after it backs off again."""
    wire = await client.opened(options="{ backoff: { min: 60000, max: 60000 }, random: () => 0.5 }")
    goodbye = {"type": "goodbye", "code": 1012, "reason": "draining", "reconnect": True, "reconnect_after_ms": 20}
    await wire.send(goodbye)
    await wire.close(1012)
    (await peer.accept()).cut()
    await client.until("states.filter((s) => s.retryInMs !== null).length === 2")

    waits = await client.run("states.filter((s) => s.retryInMs !== null).map((s) => s.retryInMs)")

    assert waits == [20, 30_000]


async def test_a_goodbye_without_reconnect_is_final(client: Client) -> None:
    """`reconnect: false` closes for good although the code would allow a return."""
    wire = await client.opened()
    await wire.send({"type": "goodbye", "code": 1001, "reason": "over", "reconnect": False, "reconnect_after_ms": None})
    await wire.close(1001)
    await client.until("c.state === 'closed'")
    assert (await client.run("states.at(-1)"))["detail"] == "over (1001)"


async def test_a_refused_handshake_is_tried_again(client: Client, peer: Peer) -> None:
    """A server that answers 503 is tried until it takes the connection."""
    peer.refuse = HTTPStatus.SERVICE_UNAVAILABLE
    await client.connect()
    await client.until("states.filter((s) => s.retryInMs !== null).length >= 3")
    peer.refuse = None
    await (await peer.accept()).establish()
    await client.until("c.state === 'open'")
    assert peer.refused >= 3


@pytest.mark.parametrize(("code", "final"), [(4001, True), (1008, False), (4008, False), (1011, False)])
async def test_a_close_code_decides(client: Client, peer: Peer, code: int, final: bool) -> None:
    """A final code ends in closed with requests rejected for good; another code comes back."""
    wire = await client.opened()
    await wire.close(code)
    if final:
        await client.until("c.state === 'closed'")
        assert await client.run("c.publish('a', 1).catch((e) => [e.code, e.temporary])") == ["CLOSED", False]
    else:
        assert isinstance(await peer.accept(), Wire)


async def test_close_is_final_and_says_1000(client: Client) -> None:
    """close() closes with 1000, rejects what is outstanding and does not come back."""
    wire = await client.opened()
    await client.do("window.p = c.publish('a', 1).catch((e) => e.code)")
    await wire.expect("publish")
    await client.do("c.close()")
    assert await wire.closed_code() == 1000
    assert await client.run("p") == "CLOSED"
    assert await client.run("c.state") == "closed"


async def test_publish_is_answered_refused_or_rejected_but_never_queued(client: Client, peer: Peer) -> None:
    """The ack resolves, an error rejects with its fields, a cut rejects as unknown, and offline nothing is sent."""
    wire = await client.opened()
    await client.do(
        """const field = (e) => [e.code, e.temporary, e.retryAfterMs];
             window.ps = [1, 2, 3].map((n) => c.publish('a', n).catch(field)); window.field = field;"""
    )
    asked = [await wire.expect("publish") for _ in range(3)]
    error = {"code": "RATE_LIMIT_EXCEEDED", "message": "slow down", "temporary": True, "retry_after_ms": 100}
    await wire.send({"type": "error", "id": asked[1]["id"], **error})
    await wire.send({"type": "publish_ack", "id": asked[0]["id"], "channel": "a", "epoch": "e1", "offset": 1})
    await client.run("ps[0]")
    wire.cut()

    assert (await client.run("ps[0]"))["offset"] == 1
    assert await client.run("ps[1]") == ["RATE_LIMIT_EXCEEDED", True, 100]
    assert await client.run("ps[2]") == ["DISCONNECTED", True, None]
    assert await client.run("c.publish('a', 4).catch(field)") == ["NOT_OPEN", True, None]
    wire = await peer.accept()
    await wire.establish()
    await client.until("c.state === 'open'")
    await client.do("void c.publish('a', 5)")
    assert (await wire.expect("publish"))["data"] == 5


async def test_a_message_over_the_limit_is_not_sent(client: Client) -> None:
    """What would end the connection with 1009 rejects with TOO_BIG and the connection lives on."""
    await client.opened()
    assert await client.run("c.publish('a', 'é'.repeat(40000)).catch((e) => e.code)") == "TOO_BIG"
    assert await client.run("c.state") == "open"


async def test_the_token_travels_as_a_subprotocol_and_is_fetched_anew(client: Client, peer: Peer) -> None:
    """An async token function is called per attempt; the URL stays clean; a failing function is retried."""
    await client.connect(
        options="""{ token: async () => {
          window.n = (window.n ?? 0) + 1;
          if (n === 2) throw new Error('token service down');
          return `t${n}`; } }"""
    )
    wire = await peer.accept()
    assert wire.subprotocol == "trunkline"
    assert wire.offered == ["trunkline", "bearer.t1"]
    assert "t1" not in wire.path
    wire.cut()
    assert (await peer.accept()).offered == ["trunkline", "bearer.t3"]


async def test_without_a_token_no_subprotocol_is_offered(client: Client, peer: Peer) -> None:
    """A plain connection offers nothing."""
    await client.connect()
    assert (await peer.accept()).offered == []


async def test_a_token_in_the_query_when_asked_for(client: Client, peer: Peer) -> None:
    """`tokenIn: "query"` uses the URL, and the display URL does not show it."""
    await client.connect(options="{ token: 'abc', tokenIn: 'query' }")
    assert "token=abc" in (await peer.accept()).path
    assert "abc" not in await client.run("c.url")


async def test_heartbeats_are_answered_and_silence_reconnects(client: Client, peer: Peer) -> None:
    """A heartbeat gets one back; 2.5 intervals with nothing at all count as a dead connection."""
    wire = await client.opened(interval_ms=400)
    await wire.send({"type": "heartbeat"})
    await wire.expect("heartbeat")
    await peer.accept()
    lost = await client.run("states.find((s) => s.state === 'reconnecting')")
    assert lost["detail"].startswith("nothing heard for 1000 ms")


async def test_online_ends_a_back_off_at_once_but_not_a_pause_of_the_server(client: Client, peer: Peer) -> None:
    """The browser's online event skips the back-off; a goodbye's delay stands."""
    wire = await client.opened(options="{ backoff: { min: 60000, max: 60000 }, random: () => 0.5 }")
    wire.cut()
    await client.until("c.state === 'reconnecting'")
    await client.do("dispatchEvent(new Event('online'))")
    wire = await peer.accept()
    await wire.establish()
    await client.until("c.state === 'open'")
    await wire.send({"type": "goodbye", "code": 1012, "reason": "d", "reconnect": True, "reconnect_after_ms": 60_000})
    await wire.close(1012)
    await client.until("c.state === 'reconnecting'")
    await client.do("dispatchEvent(new Event('online'))")
    assert (await client.run("states.at(-1)"))["retryInMs"] == 60_000


async def test_a_throwing_callback_is_reported_and_breaks_nothing(client: Client) -> None:
    """An exception of a consumer reaches the page's error event; other callbacks and publications go on."""
    wire = await client.opened()
    await client.do(
        """window.errors = []; addEventListener('error', (e) => { errors.push(e.message); e.preventDefault(); });
             c.subscribe('news', { onPublication() { throw new Error('mine'); } });
             c.subscribe('news', handlers());"""
    )
    asked = await wire.acknowledge({"news": {}})
    await wire.send(publication(1), publication(2))
    assert await client.seen(3) == ["sub 0", "pub p1", "pub p2"]
    assert len(await client.run("errors")) == 2
    assert asked["channels"] == ["news"]


async def test_unsubscribe_tells_the_server_when_the_last_callback_leaves(client: Client, peer: Peer) -> None:
    """Two callbacks, one subscription; it ends with the second, and a reconnect does not bring it back."""
    wire = await client.opened()
    await client.do("window.a = c.subscribe('news', handlers('a ')); window.b = c.subscribe('news', handlers('b '))")
    await wire.acknowledge({"news": {}})
    await client.seen(2)
    await client.do("a.unsubscribe()")
    await wire.send(publication(1))
    assert await client.seen(3) == ["a sub 0", "b sub 0", "b pub p1"]
    await client.do("b.unsubscribe(), b.unsubscribe()")
    assert (await wire.expect("unsubscribe"))["channels"] == ["news"]
    wire.cut()
    wire = await peer.accept()
    await wire.establish()
    await client.until("c.state === 'open'")
    await client.do("void c.send({ type: 'last' })")
    await wire.expect("last")


async def test_one_forbidden_channel_does_not_cost_the_others(client: Client) -> None:
    """A refused subscribe of several is asked again one by one; the bad one reports its error."""
    wire = await client.opened()
    await client.do("c.subscribe('good', handlers('g ')); c.subscribe('bad', handlers('b '))")
    asked = await wire.expect("subscribe")
    refusal = {"type": "error", "code": "FORBIDDEN", "message": "bad is not for you", "temporary": False}
    await wire.send({**refusal, "id": asked["id"]})
    assert (await wire.acknowledge({"good": {}}))["channels"] == ["good"]
    asked = await wire.expect("subscribe")
    assert asked["channels"] == ["bad"]
    await wire.send({**refusal, "id": asked["id"]})
    assert await client.seen(2) == ["g sub 0", "b error FORBIDDEN"]


async def test_a_subscribe_refused_for_a_time_is_asked_again(client: Client) -> None:
    """A temporary error is followed by the same subscribe after the server's pause."""
    wire = await client.opened()
    await client.do("c.subscribe('news', handlers())")
    asked = await wire.expect("subscribe")
    error = {"code": "UNAVAILABLE", "message": "bus down", "temporary": True, "retry_after_ms": 10}
    await wire.send({"type": "error", "id": asked["id"], **error})
    await wire.acknowledge({"news": {}})
    assert await client.seen(1) == ["sub 0"]


async def test_what_is_no_message_is_reported_and_ignored(client: Client) -> None:
    """Text that is no object with a type leaves the connection alone; types of an app reach their listener."""
    wire = await client.opened()
    await client.do(
        """window.errors = 0; addEventListener('error', (e) => { errors += 1; e.preventDefault(); });
             c.on('score', (m) => seen.push(`score ${m.value}`));"""
    )
    await wire.send_text("not json")
    await wire.send_text("[1]")
    await wire.send({"type": "score", "value": 7})
    assert await client.seen(1) == ["score 7"]
    assert await client.run("errors") == 2


async def test_reconnect_on_request_keeps_positions(client: Client, peer: Peer) -> None:
    """reconnect() opens a new socket at once and recovers from the old position."""
    old = await client.subscribed(offset=5)
    await client.do("c.reconnect()")
    wire = await peer.accept()
    await wire.establish()
    assert (await wire.expect("subscribe"))["recover"] == {"news": {"epoch": "e1", "offset": 5}}
    await asyncio.wait_for(old.closed_code(), patient(5))


async def test_a_server_that_never_establishes_is_given_up(client: Client, peer: Peer) -> None:
    """An attempt without connection_established ends after the time-out and is tried again."""
    await client.connect(options="{ connectTimeoutMs: 50 }")
    await peer.accept()
    await peer.accept()
    assert "not established within 50 ms" in (await client.run("states[1]"))["detail"]


async def test_nothing_waits_after_close(virtual: Virtual) -> None:
    """Not the next token, not a refused subscribe, not a request: a closed client can be collected at once."""
    counts = await virtual(
        """addEventListener("error", (e) => e.preventDefault());
           let fail = false;
           const token = () => { if (fail) throw new Error("down"); return "t"; };
           const c = await peer.connect({ token });
           fail = true;
           peer.answer = (message) => [refusal(message, "UNAVAILABLE", { retry_after_ms: 3_600_000 })];
           peer.socket.say({ type: "token_expiring", expires_in_ms: 30_000 });
           c.subscribe("a");
           c.publish("a", 1).catch(() => 0);
           await clock.advance(0);
           peer.answer = () => [];
           c.publish("a", 1).catch(() => 0);
           const before = clock.waiting;
           c.close();
           await clock.advance(0);
           return [before, clock.waiting];"""
    )
    assert counts[0] >= 5
    assert counts[1] == 0


@pytest.mark.parametrize("when", ["trying", "on request"])
async def test_a_listener_that_reconnects_opens_one_socket(virtual: Virtual, when: str) -> None:
    """The attempt that called it ends there: a second socket would stay open beside the one in use."""
    opened = await virtual(
        f"""const c = await peer.connect();
            let once = true;
            c.on("state", (change) => {{
              if (change.detail !== "{when}" || !once) return;
              once = false;
              c.reconnect();
            }});
            if ("{when}" === "trying") peer.socket.end(1006);
            else c.reconnect();
            await clock.advance(60_000);
            return [peer.sockets.filter((s) => s.readyState === 1).length, c.state];"""
    )
    assert opened == [1, "open"]


@pytest.mark.parametrize("type", ["*", "state", "sent"])
async def test_a_listener_may_close(virtual: Virtual, type: str) -> None:
    """Whatever it is called for, closed is final, and nothing is acted on any more."""
    states, waiting = await virtual(
        f"""peer.greet = () => {{}};
            const c = await peer.connect();
            c.subscribe("a");
            c.on("{type}", (event) => event.state !== "closed" && c.close());
            peer.socket.establish();
            await clock.advance(600_000);
            return [peer.states.map((s) => s.state), clock.waiting];"""
    )
    assert states[-1] == "closed"
    assert states.count("closed") == 1
    assert waiting == 0
