"""What the browser client does when the browser knows of a change: the network, a sleeping tab, a page that is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from tests.browser.conftest import BROWSER_ARGS, browser_path
from tests.support.scripted_peer import Client, Peer

pytestmark = pytest.mark.asyncio(loop_scope="session")

Virtual = Callable[[str], Awaitable[Any]]
EVENTS = {
    "offline": "dispatchEvent(new Event('offline'))",
    "online": "dispatchEvent(new Event('online'))",
    "resume": "document.dispatchEvent(new Event('resume'))",
    "visible": "document.dispatchEvent(new Event('visibilitychange'))",
    "connection": "navigator.connection.dispatchEvent(new Event('change'))",
}


@pytest.mark.parametrize("event", EVENTS)
async def test_a_dead_connection_is_noticed_within_seconds(virtual: Virtual, event: str) -> None:
    """The browser says that something changed: a socket that answers no probe within 5 s is replaced."""
    probes, ats, detail = await virtual(
        f"""await peer.connect();
            await clock.advance(10_000);
            peer.answer = () => [];
            {EVENTS[event]};
            {EVENTS[event]};
            await clock.advance(5600);
            return [peer.of("heartbeat").map((m) => m.at), peer.sockets.map((s) => s.at), peer.states.at(-3).detail];"""
    )
    assert probes == [10_000]
    assert ats == [0, 15_250]
    assert detail == "no answer to a probe within 5000 ms (1006)"


async def test_a_live_connection_stays(virtual: Virtual) -> None:
    """It answers; or it is slow and other messages come first; or its server is busy and says so."""
    counts = await virtual(
        f"""const probe = () => {{ {EVENTS["online"]}; }};
            const counts = [];
            await peer.connect();
            probe();
            await clock.advance(6000);
            counts.push(peer.sockets.length);
            peer.answer = () => [];
            probe();
            await clock.advance(3000);
            peer.socket.say({{ type: "score" }});
            await clock.advance(3000);
            counts.push(peer.sockets.length);
            peer.answer = (m) => [refusal(m, "RATE_LIMIT_EXCEEDED", {{ retry_after_ms: 9000 }})];
            probe();
            await clock.advance(6000);
            counts.push(peer.sockets.length);
            return counts;"""
    )
    assert counts == [1, 1, 1]


async def test_what_was_on_its_way_before_is_no_answer(virtual: Virtual) -> None:
    """Messages that waited while the tab slept are handled after it woke, and say nothing of the connection now."""
    count = await virtual(
        f"""await peer.connect();
            peer.answer = () => [];
            {EVENTS["resume"]};
            await clock.advance(100);
            peer.socket.say({{ type: "heartbeat" }});
            await clock.advance(6000);
            return peer.sockets.length;"""
    )
    assert count == 2


async def test_a_probe_does_not_wait_for_its_place_in_the_rate(virtual: Virtual) -> None:
    """A burst of the page's own messages does not make its connection look dead."""
    count, probe_at = await virtual(
        f"""const c = await peer.connect();
            for (let n = 0; n < 300; n += 1) c.publish("a", n).catch(() => 0);
            {EVENTS["online"]};
            await clock.advance(10_000);
            return [peer.sockets.length, peer.of("heartbeat")[0].at];"""
    )
    assert (count, probe_at) == (1, 0)


@pytest.mark.parametrize("event", ["online", "resume", "visible"])
async def test_a_back_off_ends_when_the_page_or_the_network_is_back(virtual: Virtual, event: str) -> None:
    """Somebody looks at the page, or the network is there: the next attempt is made now."""
    ats = await virtual(
        f"""await peer.connect({{ backoff: {{ min: 60_000, max: 60_000 }} }});
            await clock.advance(1000);
            peer.socket.end(1006);
            await clock.advance(1000);
            {EVENTS[event]};
            await clock.advance(0);
            return peer.sockets.map((s) => s.at);"""
    )
    assert ats == [0, 2000]


async def test_a_page_that_is_left_closes_and_comes_back_when_it_is_shown(virtual: Virtual) -> None:
    """On pagehide the socket is closed and nothing is tried; pageshow opens at once, with session and positions."""
    during, after = await virtual(
        """const c = await peer.connect();
           c.subscribe("news");
           await clock.advance(0);
           const lost = c.request({ type: "rpc" }).catch((e) => e.code);
           const waiting = c.publish("a", 1);
           dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
           const during = [peer.socket.closedWith, c.state];
           await waiting.catch(() => 0);
           await clock.advance(600_000);
           during.push(peer.sockets.length, await lost);
           dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
           await clock.advance(0);
           const { url, at } = peer.socket;
           const asked = peer.of("subscribe").length;
           return [during, [peer.sockets.length, at, url.includes("session=s"), c.state, asked]];"""
    )
    assert during == [1005, "reconnecting", 1, "DISCONNECTED"]
    assert after == [2, 600_000, True, "open", 2]


async def test_a_closed_client_hears_no_events(virtual: Virtual) -> None:
    """close() is final: neither the network nor the page brings it back."""
    count = await virtual(
        """const c = await peer.connect();
           dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
           c.close();
           dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
           dispatchEvent(new Event("online"));
           await clock.advance(60_000);
           return [peer.sockets.length, c.state];"""
    )
    assert count == [1, "closed"]


async def test_offline_of_the_real_browser_finds_a_dead_connection(client: Client, peer: Peer) -> None:
    """Offline, the browser holds all traffic back: the client notices within 5 s, and back online it is there again."""
    await client.page.clock.install()
    await client.opened()
    await client.page.context.set_offline(True)
    await client.until("!navigator.onLine")
    await client.page.clock.run_for(5000)
    assert "no answer to a probe" in (await client.run("states.find((s) => s.state === 'reconnecting')"))["detail"]
    await client.page.context.set_offline(False)
    await client.until("navigator.onLine")
    await client.page.clock.run_for(100)
    await (await peer.accept()).establish()
    await client.until("c.state === 'open'")


@pytest_asyncio.fixture(loop_scope="session")
async def caching_page(peer: Peer) -> AsyncIterator[Page]:
    """A blank page in a browser whose back/forward cache is on, which Playwright switches off."""
    async with async_playwright() as playwright:
        off = ["--disable-back-forward-cache"]
        browser = await playwright.chromium.launch(
            executable_path=browser_path(), args=BROWSER_ARGS, ignore_default_args=off
        )
        page = await (await browser.new_context(bypass_csp=True)).new_page()
        await page.goto(f"{peer.origin}/blank")
        yield page
        await browser.close()


async def test_the_back_forward_cache_keeps_the_page(caching_page: Page, peer: Peer) -> None:
    """Gone to another page and back, the page is the same one, with its state, and its client open again."""
    client = Client(caching_page, peer)
    wire = await client.subscribed(offset=5)
    await client.do("window.kept = 'yes'; addEventListener('pageshow', (e) => { window.persisted = e.persisted; })")
    await caching_page.goto(f"http://localhost:{peer.port}/blank")
    assert await wire.closed_code() in (1001, 1005)
    await caching_page.evaluate("history.back()")
    wire = await peer.accept()
    await wire.establish()
    assert (await wire.expect("subscribe"))["recover"] == {"news": {"epoch": "e1", "offset": 5}}
    await client.until("c.state === 'open'")
    assert await client.run("[kept, persisted]") == ["yes", True]
