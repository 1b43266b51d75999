"""The test page of a real node in a browser: under the policy that the node sends, and for apps of users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from playwright.async_api import Browser, Page, expect

from tests.support.server.live_node import settings_with
from trunkline import App, Client
from trunkline.server.app import stock
from trunkline.server.node.node import Node

pytestmark = pytest.mark.asyncio(loop_scope="session")

Start = Callable[..., Awaitable[Node]]


@pytest_asyncio.fixture(loop_scope="session")
async def start_node() -> AsyncIterator[Start]:
    """Start nodes with an app."""
    nodes: list[Node] = []

    async def start(app: App, **changes: Any) -> Node:
        node = Node(settings_with(**changes), app)
        await node.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        await node.stop(drain_ms=0, deadline_ms=300)


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, start_node: Start) -> AsyncIterator[Page]:
    """A tab that fails the test when the page raises, breaks its policy, or does not find what it asks for.

    It is closed before the nodes are.
    """
    context = await browser.new_context()
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield page
    await context.close()
    # The one host that a test tries.
    assert [fault for fault in faults if "ws://blocked.example" not in fault] == []


async def test_the_stock_page_connects_under_its_policy(page: Page, start_node: Start) -> None:
    """Feed, chat and match open; other hosts are closed to the page."""
    node = await start_node(stock.create())
    await page.goto(f"http://localhost:{node.port}/?name=ann&matchId=m1")
    for name in ("feed", "chat", "match"):
        await expect(page.get_by_test_id(f"state-{name}")).to_have_text("open")
    blocked = """new Promise(done => {
      addEventListener("securitypolicyviolation", event => done(event.violatedDirective));
      try { new WebSocket("ws://blocked.example/ws") } catch { }
    })"""
    assert await page.evaluate(blocked) == "connect-src"


async def test_endpoints_that_are_switched_off_are_not_opened(page: Page, start_node: Start) -> None:
    """Without chat the page opens the feed alone."""
    node = await start_node(stock.create(), server__chat=False)
    await page.goto(f"http://127.0.0.1:{node.port}/?matchId=m1")
    await expect(page.get_by_test_id("state-feed")).to_have_text("open")
    await expect(page.get_by_test_id("chat-join")).to_be_hidden()
    await expect(page.get_by_test_id("match-join")).to_be_hidden()
    assert await page.get_by_test_id("connections").locator("article").count() == 1


async def test_the_page_of_an_app(page: Page, start_node: Start) -> None:
    """It lists the app's endpoints, opens nothing by itself, and what is opened by hand can be talked to."""
    app = App("shop <b>live</b>")

    @app.websocket("/rooms/{room}/{seat}", envelope=False)
    async def rooms(client: Client) -> None:
        async for text in client:
            client.send(f"{client.params['room']}/{client.params['seat']}?{client.query.get('x')} <i>{text}</i>")

    @app.websocket("/feed")
    async def feed(client: Client) -> None:
        async for _ in client:
            pass

    node = await start_node(app)
    opened: list[str] = []
    page.on("websocket", lambda socket: opened.append(socket.url))
    await page.goto(f"http://127.0.0.1:{node.port}/")
    await expect(page.get_by_test_id("app-name")).to_have_text("shop <b>live</b>")
    await expect(page.get_by_test_id("node-name")).to_have_text(node.name)
    card = page.get_by_test_id("endpoint-/rooms/{room}/{seat}")
    await expect(page.get_by_test_id("endpoints").locator("section")).to_have_count(2)
    assert opened == []
    await card.get_by_label("room", exact=True).fill("tea")
    await card.get_by_label("seat", exact=True).fill("a b")
    await card.get_by_label("Query", exact=True).fill("x=1")
    await card.get_by_role("button", name="Open").click()
    await expect(card.get_by_role("status")).to_have_text("open")
    await card.get_by_label("Message", exact=True).fill("hello")
    await card.get_by_role("button", name="Send").click()
    await expect(card.get_by_role("log")).to_contain_text("tea/a b?1 <i>hello</i>")
    await card.get_by_role("button", name="Close").click()
    await expect(card.get_by_role("status")).to_have_text("closed")
    await expect(card.get_by_role("log")).to_contain_text("closed with 1000")
    assert opened == [f"ws://127.0.0.1:{node.port}/rooms/tea/a%20b?x=1"]
