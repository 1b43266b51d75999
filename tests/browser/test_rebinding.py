"""DNS rebinding in a browser: a page of one name that leads to this machine reaches nothing there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from playwright.async_api import Browser, Page, async_playwright

from tests.browser.conftest import BROWSER_ARGS, browser_path
from tests.support.balancer.relay_peers import FixedPlacer, edge_settings
from tests.support.free_ports import free_port
from tests.support.server.live_node import settings_with
from trunkline.balancer.own_pages import OwnPages
from trunkline.balancer.relay.edge import Edge
from trunkline.server.app import stock
from trunkline.server.node.node import Node

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAME = "rebound.example"
OPEN = """url => new Promise(done => {
  const socket = new WebSocket(url);
  socket.onopen = () => done("open");
  socket.onclose = () => done("closed");
})"""


@pytest_asyncio.fixture(loop_scope="session")
async def page() -> AsyncIterator[Page]:
    """A page in a browser in which the name leads to this machine."""
    arguments = [*BROWSER_ARGS, f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    async with async_playwright() as playwright:
        browser: Browser = await playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        # An attacker's own server sends no policy.
        yield await browser.new_page(bypass_csp=True)
        await browser.close()


async def opened_from(page: Page, name: str, port: int, websocket: str) -> dict[str, Any]:
    """What a page at the name reads of the port that it came from, and whether it opens an endpoint."""
    answer = await page.goto(f"http://{name}:{port}/healthz")
    assert answer is not None
    forwarded = '{headers: {"X-Forwarded-For": "127.0.0.1"}}'
    reads = "path => fetch(path).then(answer => answer.status)"
    lies = f"path => fetch(path, {forwarded}).then(answer => answer.status)"
    return {
        "page": answer.status,
        "metrics": await page.evaluate(reads, "/metrics"),
        "lying": await page.evaluate(lies, "/metrics"),
        "balancer": await page.evaluate(reads, "/balancer-metrics"),
        "endpoint": await page.evaluate(OPEN, f"ws://{name}:{port}{websocket}"),
    }


async def test_a_page_of_another_name_reaches_nothing(page: Page) -> None:
    """Neither a node nor a balancer on loopback serves it, nor a node that trusts the page's machine as a proxy."""
    node = Node(settings_with(server__trusted_proxies=("127.0.0.0/8",)), stock.create())
    await node.start()

    async def render(query: str, accept: str) -> tuple[str, bytes]:
        return "application/json", b"{}"

    settings = edge_settings(port=free_port(), hosts=())
    placer = FixedPlacer(f"http://127.0.0.1:{node.port}")
    edge = Edge(settings, placer, pages=OwnPages(settings, render).answer)
    await edge.start()
    try:
        for port in (node.port, edge.port):
            seen = await opened_from(page, NAME, port, "/ws")
            assert seen["page"] == 400
            assert seen["endpoint"] == "closed"
            assert {seen["metrics"], seen["balancer"], seen["lying"]} <= {400, 403, 404}
            seen = await opened_from(page, "localhost", port, "/ws")
            assert (seen["page"], seen["metrics"], seen["endpoint"]) == (200, 200, "open")
        assert seen["balancer"] == 200
    finally:
        await edge.stop(0.0)
        await node.stop(drain_ms=0, deadline_ms=300)
