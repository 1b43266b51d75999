"""The page on a real fleet: two tabs on two nodes over NATS, a node that is killed, and a tab that catches up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession

from tests.support.free_ports import free_ports
from tests.support.patience import patient

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Fleet(NamedTuple):
    """A running `trunkline up`."""

    process: asyncio.subprocess.Process
    nodes: tuple[str, str]


@pytest_asyncio.fixture(loop_scope="session")
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Two nodes and NATS."""
    port = free_ports(6)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRUNKLINE_")}
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "HEARTBEAT_INTERVAL": "2000"}
    with (tmp_path / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trunkline", "up", "--port", str(port)),
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
        )
        nodes = (f"http://127.0.0.1:{port + 2}", f"http://127.0.0.1:{port + 4}")
        try:
            async with ClientSession() as http, asyncio.timeout(patient(40)):
                for node in nodes:
                    await ready(http, node)
            yield Fleet(process, nodes)
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), patient(30))


async def ready(http: ClientSession, node: str) -> None:
    """Wait until a node wants traffic."""
    while True:
        try:
            async with http.get(f"{node}/ready") as answer:
                if answer.status == 200:
                    return
        except ClientError:
            pass
        await asyncio.sleep(0.05)


async def open_tab(browser: Browser, node: str) -> Page:
    """A tab on a node, connected."""
    page = await (await browser.new_context()).new_page()
    await page.goto(node + "/")
    # Not wait_for_function: its predicate is evaluated in the page, which the page's own CSP forbids.
    await page.locator("[data-testid=connections] [data-state=open]").nth(1).wait_for()
    return page


async def say(page: Page, text: str) -> None:
    """Send a line of chat."""
    await page.get_by_test_id("chat-text").fill(text)
    await page.get_by_test_id("chat-send").click()


async def see(page: Page, text: str) -> None:
    """Wait until a line of chat is shown."""
    await page.get_by_test_id("chat-lines").get_by_text(text, exact=True).wait_for(timeout=patient(20_000))


async def test_a_tab_whose_node_is_killed_misses_nothing(browser: Browser, fleet: Fleet) -> None:
    """Lines said while the node was dead stand in the tab once it is back, each once and in order."""
    one, two = [await open_tab(browser, node) for node in fleet.nodes]
    await say(one, "hello from one")
    await see(two, "hello from one")
    await say(two, "hello from two")
    await see(one, "hello from two")

    async with ClientSession() as http:
        async with http.get(fleet.nodes[1] + "/api/instance") as answer:
            pid = (await answer.json())["pid"]
        os.kill(pid, signal.SIGKILL)
        await two.locator("[data-testid=connections] [data-state=reconnecting]").first.wait_for(timeout=patient(10_000))
        for number in range(5):
            await say(one, f"missed {number}")
            await see(one, f"missed {number}")
        await ready(http, fleet.nodes[1])
    await see(two, "missed 4")
    lines = await two.get_by_test_id("chat-lines").inner_text()
    places = [lines.index(f"missed {number}") for number in range(5)]
    assert places == sorted(places)
    assert all(lines.count(f"missed {number}") == 1 for number in range(5))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    shots = os.environ.get("TRUNKLINE_TEST_SHOTS")
    if shots:
        await two.screenshot(path=f"{shots}/fleet.png", full_page=True)
