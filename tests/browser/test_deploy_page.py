"""The verdict of a deploy as a page, opened from a file in a browser as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright.async_api", reason="playwright is not installed")
pytest.importorskip("hdrh", reason="hdrhistogram is not installed")

from playwright.async_api import Browser, expect

from tests.support.deploy.example_facts import example_facts
from trunkline.deploy.verdict.page import page
from trunkline.deploy.verdict.verdict import make_verdict

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_page_of_a_verdict(browser: Browser, tmp_path: Path):
    """Each plot is drawn with the states as stages, pointing shows the values, nothing is loaded, a phone has room."""
    file = tmp_path / "verdict.html"
    file.write_bytes(page(make_verdict(example_facts())))
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    tab = await context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: None if request.url == file.as_uri() else complaints.append(request.url))
    await tab.goto(file.as_uri())
    figures = tab.locator("#over-time figure")
    await expect(figures).to_have_count(5)
    for number, lines in enumerate((2, 3, 2, 1, 1)):
        await expect(figures.nth(number).locator("path.curve")).to_have_count(lines)
        await expect(figures.nth(number).locator("line.stage")).to_have_count(9)
    await tab.get_by_role("slider", name="Clients on each colour").focus()
    await tab.keyboard.press("End")
    await expect(tab.locator("#over-time .tip b").first).to_have_text("02:21, retiring")
    await tab.set_viewport_size({"width": 390, "height": 844})
    # The plots are drawn once more after the change of size.
    await tab.wait_for_function("document.documentElement.scrollWidth <= 390")
    await context.close()
    assert complaints == []
