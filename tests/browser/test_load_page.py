"""The HTML report of a load run, opened from a file in a browser as a user would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="playwright is not installed")
pytest.importorskip("hdrh", reason="hdrhistogram is not installed")

import msgspec
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.support.load.example_report import example_report, faulty_report, second_of
from trunkline.load.model.report import Report
from trunkline.load.model.tally import Finding
from trunkline.load.output.page import page

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>"


class Shown:
    """A report in a browser, and everything that the browser complained of."""

    def __init__(self, context: BrowserContext, folder: Path) -> None:
        """Show reports from files in this folder."""
        self._context, self._folder = context, folder
        self.complaints: list[str] = []

    async def open(self, report: Report) -> Page:
        """Write a report to a file and open it."""
        file = self._folder / "report.html"
        file.write_bytes(page(report))
        tab = await self._context.new_page()
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", lambda request: None if request.url == file.as_uri() else self.complaints.append(request.url))
        await tab.goto(file.as_uri())
        return tab


@pytest_asyncio.fixture(loop_scope="session")
async def shown(browser: Browser, tmp_path: Path) -> AsyncIterator[Shown]:
    """A fresh browser context whose page may complain of nothing by the end of the test."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    shown = Shown(context, tmp_path)
    yield shown
    await context.close()
    assert shown.complaints == []


async def test_each_plot_has_its_lines(shown: Shown):
    """All plots are drawn, with a stage line for each change, and no script error or refused source is seen."""
    tab = await shown.open(faulty_report())
    plots = tab.locator("#over-time figure")
    titles = await plots.locator("h3").all_inner_texts()
    assert titles == [
        "Connections", "Connections opened and ended", "Messages", "Message latency", "Connect latency", "Errors",
        "Server CPU", "Server memory", "Generator CPU", "Lag",
    ]  # fmt: skip
    for number, lines in enumerate((3, 3, 2, 4, 3, 4, 1, 2, 1, 2)):
        drawn = plots.nth(number).locator("path.curve")
        await expect(drawn).to_have_count(lines)
        for shape in await drawn.evaluate_all("paths => paths.map(path => path.getAttribute('d'))"):
            assert shape.startswith("M")
            assert "NaN" not in shape
        await expect(plots.nth(number).locator("line.stage")).to_have_count(2)
    await expect(tab.locator("#curve path.curve")).to_have_count(6)


async def test_pointing_shows_the_values_of_that_moment_in_all_plots(shown: Shown):
    """The tooltip names the time, the stage and each line's value; the other plots point at the same moment."""
    tab = await shown.open(example_report())
    frame = tab.locator("#over-time .frame").first
    await expect(tab.locator(".tip:visible")).to_have_count(0)
    box = await frame.bounding_box()
    assert box is not None
    await frame.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    await expect(frame.locator(".tip")).to_contain_text("hold")
    await expect(frame.locator(".tip")).to_contain_text("target1,000")
    await expect(tab.locator("#over-time .tip:visible")).to_have_count(10)
    assert len(set(await tab.locator("#over-time .tip b").all_inner_texts())) == 1
    await expect(tab.locator("#curve .tip")).to_be_hidden()
    await tab.locator("h1").hover()
    await expect(tab.locator(".tip:visible")).to_have_count(0)


async def test_the_keyboard_points_too(shown: Shown):
    """Arrows, Home and End go from second to second, and what is there is said to screen readers."""
    tab = await shown.open(example_report())
    frame = tab.get_by_role("slider", name="Messages")
    await frame.focus()
    await tab.keyboard.press("Home")
    await expect(frame).to_have_attribute("aria-valuetext", "1 s, up: sent 300/s, received 300/s")
    await tab.keyboard.press("ArrowRight")
    await expect(frame.locator(".tip b")).to_have_text("2 s, up")
    await tab.keyboard.press("End")
    await expect(frame.locator(".tip b")).to_have_text("60 s, down")
    await tab.keyboard.press("Escape")
    await expect(frame.locator(".tip")).to_be_hidden()


async def test_latencies_switch_between_linear_and_logarithmic(shown: Shown):
    """The button changes the axis of its plot and nothing else."""
    tab = await shown.open(example_report())
    plot = tab.locator("figure", has_text="Message latency")
    before = await plot.locator("path.curve").first.get_attribute("d")
    assert "0" in await plot.locator("text").all_text_contents()
    button = plot.get_by_role("button", name="log scale")
    await button.click()
    await expect(button).to_have_attribute("aria-pressed", "true")
    await expect(plot.locator("path.curve").first).not_to_have_attribute("d", before or "")
    assert "0" not in await plot.locator("text").all_text_contents()
    await button.click()
    await expect(plot.locator("path.curve").first).to_have_attribute("d", before or "")


async def test_texts_of_servers_and_scenarios_are_shown_as_text(shown: Shown):
    """Markup in reasons, channels, warnings and stage names does nothing, in the tables as in the tooltip."""
    seconds = [msgspec.structs.replace(second_of(at_s), stage=HOSTILE) for at_s in range(1, 61)]
    finding = Finding("lost", HOSTILE, 1, 2, epoch=HOSTILE)
    tab = await shown.open(
        faulty_report(reasons={HOSTILE: 3}, warnings=[HOSTILE], findings=[finding], seconds=seconds, scenario=HOSTILE)
    )
    await tab.locator("#over-time .frame").first.hover()
    await expect(tab.locator("#over-time .tip b").first).to_contain_text(HOSTILE)
    await expect(tab.locator("h1")).to_have_text(f"Load test: {HOSTILE}")
    await expect(tab.get_by_role("cell", name=HOSTILE)).to_have_count(3)
    assert await tab.evaluate("[typeof window.hacked, document.images.length, document.scripts.length]") == [
        "undefined", 0, 2,
    ]  # fmt: skip


async def test_it_fits_a_phone(shown: Shown):
    """At 390 px nothing but a table's own frame scrolls sideways, and the plots are redrawn to that width."""
    tab = await shown.open(faulty_report())
    await tab.set_viewport_size({"width": 390, "height": 800})
    drawing = tab.locator("#over-time svg").first
    await expect(drawing).to_have_attribute("viewBox", "0 0 328 210")
    assert await tab.evaluate("document.documentElement.scrollWidth") == 390


async def test_a_run_without_seconds_opens(shown: Shown):
    """There is nothing to draw, and no error."""
    tab = await shown.open(example_report(seconds=[], latencies={}))
    await expect(tab.locator("figure")).to_have_count(0)
