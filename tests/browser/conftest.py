"""Fixtures of the browser tests: one headless browser a process, and for each test a peer and a page.

Without a browser, Playwright or websockets on the machine these tests are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support import ROOT

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.support.scripted_peer import Client, Peer

BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browser_path() -> str:
    """Where the browser is; skips the test without one."""
    path = os.environ.get("TRUNKLINE_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSER_NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSER_NAMES)} is on PATH, nor is TRUNKLINE_TEST_BROWSER set")
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One headless Chromium for all tests of the process."""
    path = browser_path()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=BROWSER_ARGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def peer() -> AsyncIterator[Peer]:
    """A scripted peer on a free port."""
    from tests.support.scripted_peer import Peer

    peer = Peer()
    await peer.start()
    yield peer
    await peer.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def client(browser: Browser, peer: Peer) -> AsyncIterator[Client]:
    """The client module in a fresh blank page."""
    from tests.support.scripted_peer import Client

    context = await browser.new_context(bypass_csp=True)
    page = await context.new_page()
    await page.goto(f"{peer.origin}/blank")
    yield Client(page, peer)
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def virtual(client: Client) -> Callable[[str], Awaitable[Any]]:
    """Runs JavaScript statements with `peer`, a new VirtualPeer, in scope; returns what they return."""
    await client.page.add_script_tag(path=ROOT / "tests" / "support" / "virtual_peer.js")

    async def run(statements: str) -> Any:
        return await client.run(
            f"(async () => {{ const peer = new VirtualPeer(), clock = peer.clock; {statements} }})()"
        )

    return run
