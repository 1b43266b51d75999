"""The browser client on a real node: a token that expires, and more requests than the node's rate allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import jwt
import pytest
import pytest_asyncio

from tests.support.patience import patient
from tests.support.server.live_node import settings_with
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.secret import Secret

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "0123456789abcdef0123456789abcdef"


def token(lasts_s: float) -> str:
    return jwt.encode({"sub": "u1", "exp": round(time.time() + lasts_s, 3)}, KEY, algorithm="HS256")


@pytest_asyncio.fixture(loop_scope="session")
async def node() -> AsyncIterator[Node]:
    """A node that reads tokens."""
    tokens = {"auth__algorithms": ("HS256",), "auth__secret": Secret(KEY), "auth__leeway_s": 0.0}
    node = Node(settings_with(**tokens), stock.create())
    await node.start()
    yield node
    await node.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, node: Node) -> AsyncIterator[Page]:
    """A page of the node's origin that has the client; `giveToken()` of the test gives its tokens."""
    context = await browser.new_context(bypass_csp=True)
    page = await context.new_page()
    page.set_default_timeout(patient(15_000))
    await page.goto(f"http://127.0.0.1:{node.port}/favicon.svg")
    await page.evaluate(
        """async () => {
          window.T = await import("/trunkline.js");
          window.seen = [];
          window.states = [];
          window.open = (options = {}) => {
            window.c = T.connect("/ws", options);
            c.on("state", (s) => states.push([s.state, s.code]));
            c.on("*", ({ type }) => type.startsWith("token") || type.startsWith("refresh") ? seen.push(type) : 0);
            c.subscribe("public.a", { onPublication: (data) => seen.push(data), onGap: () => seen.push("gap"),
              onSubscribed: () => seen.push("subscribed") });
          };
        }"""
    )
    yield page
    await context.close()


async def test_tokens_that_expire_are_replaced_and_nothing_is_lost(page: Page, node: Node) -> None:
    """A fresh token keeps the connection; without one 4002, then a reconnect that recovers what came meanwhile.

    A function that still gives the expired token is refused with 4001 and called again.
    """
    lives, kept = [patient(1.5), patient(1.5)], [""]

    async def give() -> str:
        if lives:
            kept[0] = token(lives.pop(0))
        return kept[0]

    await page.expose_function("giveToken", give)
    await page.evaluate("open({ token: giveToken, backoff: { min: 20, max: 100 } })")
    await page.wait_for_function("seen.includes('refresh_ack')")
    await node.hub.publish("public.a", b'"one"')
    await page.wait_for_function("seen.includes('one')")
    assert await page.evaluate("states.filter(([state]) => state !== 'connecting')") == [["open", None]]
    await page.wait_for_function("states.some(([, code]) => code === 4002)")
    await page.wait_for_function("states.some(([, code]) => code === 4001)")
    lives.append(3600.0)
    await node.hub.publish("public.a", b'"two"')
    await page.wait_for_function("seen.includes('two')")
    heard = [word for word in await page.evaluate("seen") if word in ("one", "two", "gap")]
    assert heard == ["one", "two"]
    assert (await page.evaluate("c.state"), len(lives)) == ("open", 0)


async def test_a_fresh_token_that_is_refused_ends_it(page: Page) -> None:
    """4001, by a goodbye that a page can see."""
    await page.evaluate("open({ token: () => 'nonsense' })")
    await page.wait_for_function("c.state === 'closed'")
    assert await page.evaluate("states.at(-1)") == ["closed", 4001]


async def test_a_burst_is_served_within_the_node_s_rate(page: Page, node: Node) -> None:
    """130 requests at once where 100 are free: none is refused, all are answered, and 90 channels are left at once."""
    await page.evaluate("open()")
    await page.wait_for_function("seen.includes('subscribed')")
    refused = node.runtime.meter.rate_limited
    await page.evaluate(
        """window.held = Array.from({ length: 90 }, (_, n) => c.subscribe(`public.many.${n}`));
           window.done = Promise.all(Array.from({ length: 130 }, (_, n) => c.publish("public.b", n)));"""
    )
    offsets = await page.evaluate("done.then((acks) => acks.map((ack) => ack.offset))")
    assert offsets == list(range(1, 131))
    (connection,) = node.registry.connections
    async with asyncio.timeout(patient(5)):
        while len(connection.channels) < 91:
            await asyncio.sleep(0.01)
        await page.evaluate("for (const subscription of held) subscription.unsubscribe()")
        while len(connection.channels) > 1:
            await asyncio.sleep(0.01)
    assert node.runtime.meter.rate_limited == refused
