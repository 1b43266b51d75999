"""The balancer outlives faults of its parts, and forgets what has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tests.support.patience import patient
from trunkline.balancer import core as balancer_module
from trunkline.balancer.core import SERIES_KEPT, Balancer
from trunkline.balancer.event_log import MOST_WAITING, EventLog
from trunkline.balancer.measures import EdgeCounts
from trunkline.balancer.pages import BalancerPages
from trunkline.balancer.relay.meter import EdgeEvent
from trunkline.balancer.sources.base import Update
from trunkline.logs import configure
from trunkline.placement.backend import BackendSpec
from trunkline.placement.placing import Ask, Pick
from trunkline.protocol.control import LoadReport
from trunkline.protocol.deploys import DeployStatus
from trunkline.protocol.traffic import TrafficTable
from trunkline.settings.sections import Settings


class Scripted:
    """A source that fails as often as it is told to, then tells its list."""

    def __init__(self, faults: int, *specs: BackendSpec) -> None:
        self.faults = faults
        self.specs: Sequence[BackendSpec] = specs
        self.tell: Update = lambda specs: None

    async def run(self, tell: Update) -> None:
        if self.faults:
            self.faults -= 1
            raise RuntimeError("a fault nobody thought of")
        self.tell = tell
        tell(self.specs)
        await asyncio.Event().wait()


def settings(**more: Any) -> Settings:
    """Settings of a balancer that asks no backend anything."""
    plain = Settings()
    quiet = msgspec.structs.replace(plain.balancer, health="off", announced=False, report_timeout_ms=50, **more)
    return msgspec.structs.replace(plain, balancer=quiet)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The only source of balancers in the test."""
    made = Scripted(0, BackendSpec("http://127.0.0.1:9"))
    monkeypatch.setattr(balancer_module, "configured", lambda *_: {"list": made})
    monkeypatch.setattr(balancer_module, "RESTART_S", 0.01)
    return made


@pytest_asyncio.fixture
async def balancer(source: Scripted) -> AsyncIterator[Balancer]:
    """A balancer that runs and knows its backend."""
    made = Balancer(settings())
    await made.start()
    async with asyncio.timeout(patient(10)):
        await made.ready.wait()
    yield made
    await made.stop()


async def test_the_first_report_of_a_group_that_gets_connections_makes_it_ready(balancer: Balancer) -> None:
    """A backend that worked before it was known to be of the group that the traffic table names."""
    balancer.traffic._apply(TrafficTable(1, {"blue": 100.0}, "2026-01-01T00:00:00Z"))
    assert not balancer.ready.is_set()
    balancer._on_report("http://127.0.0.1:9", LoadReport(agentsConnections=0, colour="blue"), time.monotonic())
    assert balancer.ready.is_set()


async def test_a_source_that_fails_begins_again(source: Scripted) -> None:
    """A fault in a source is logged, and the source runs again."""
    source.faults = 2
    balancer = Balancer(settings())
    with capture_logs() as lines:
        await balancer.start()
        try:
            async with asyncio.timeout(patient(10)):
                await balancer.ready.wait()
        finally:
            await balancer.stop()
    failed = [line for line in lines if line["event"] == "balancer_part_failed"]
    assert [line["part"] for line in failed] == ["source list"] * 2


async def test_the_clock_goes_on_after_a_fault(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while time is told does not stop picks from expiring."""
    expired = asyncio.Event()
    faults = [RuntimeError("a fault nobody thought of")]

    def expire(now: float) -> None:
        if faults:
            raise faults.pop()
        expired.set()

    monkeypatch.setattr(balancer.fleet, "expire", expire)
    async with asyncio.timeout(patient(10)):
        await expired.wait()


async def test_series_of_backends_that_left_are_forgotten(source: Scripted, balancer: Balancer) -> None:
    """Where each start of a backend brings a new address, counters do not grow for ever; who is there keeps them."""
    stays = BackendSpec("http://127.0.0.1:9")
    balancer.meter.picks.add(stays.url, "only")
    for number in range(SERIES_KEPT + 10):
        balancer.meter.picks.add(f"http://10.0.0.1:{number}", "only")
    source.tell((stays, BackendSpec("http://127.0.0.1:10")))
    source.tell((stays,))
    assert balancer.meter.picks.values == {(stays.url, "only"): 1}


@pytest.mark.parametrize("query", ["&" * 30, "format=prometheus&" * 40, "%ff=%ff", "refresh=" + "9" * 500, "format"])
async def test_no_query_breaks_the_page(balancer: Balancer, query: str) -> None:
    """Whatever a reader asks with, he gets a page."""
    kind, body = BalancerPages(balancer, EdgeCounts).render(query, "text/html")
    assert kind.startswith("text/html")
    assert body


async def test_series_survive_what_backends_say(source: Scripted, balancer: Balancer) -> None:
    """Names that mean something to Prometheus' format are escaped, and the imbalance is told by pool and group."""
    url = "http://127.0.0.1:9"
    colour = 'a"b\\c\nd{}='
    balancer.fleet.take_report(url, LoadReport(5, colour=colour), asked_at=1e9, now=1e9)
    _, body = BalancerPages(balancer, EdgeCounts).render("format=prometheus", "")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    [connections] = families["ws_balancer_backend_connections"].samples
    assert connections.labels == {"backend": url, "group": colour, "pool": ""}
    [imbalance] = families["ws_balancer_imbalance_ratio"].samples
    assert (imbalance.labels, imbalance.value) == ({"group": colour, "pool": ""}, 1.0)


async def test_a_pick_is_counted_and_timed(balancer: Balancer) -> None:
    """Picks by backend and reason, refusals by reason, and the time that both took."""
    assert isinstance(balancer.place(Ask("key")), Pick)
    balancer.place(Ask("key", pool="nowhere"))
    assert balancer.meter.picks.values == {("http://127.0.0.1:9", "only"): 1}
    assert balancer.meter.refusals.values == {("no_backend",): 1}
    assert sum(balancer.meter.place.counts) == 2


def test_paths_that_are_no_text_stop_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of bytes that are no text is a line like others, a long one is cut, and a flood is counted."""
    written: list[str] = []
    monkeypatch.setattr(configure, "write_lines", lambda name, lines: written.extend(lines.splitlines()))
    events = EventLog()
    for path in ("/\udcff", "/" + "a" * 100_000):
        events.add(EdgeEvent("opened", "http://a:1", "only", "10.0.0.9", path, 0.1, 101))
    events.flush()
    assert [msgspec.json.decode(line)["path"] for line in written] == ["/?", "/" + "a" * 1023]
    for _ in range(MOST_WAITING + 7):
        events.add(EdgeEvent("refused", "", "full", "10.0.0.9", "/", 0.1, 503))
    events.flush()
    last = msgspec.json.decode(written[-1])
    assert (last["event"], last["lines"]) == ("connection_lines_left_out", 7)


async def test_a_scrape_shows_the_deploy(balancer: Balancer) -> None:
    """1 at its state and 0 at all others; the lease has an age while the deploy is under way alone."""
    _, body = BalancerPages(balancer, EdgeCounts).render("format=prometheus", "")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert sum(sample.value for sample in families["ws_deploy_state"].samples) == 0
    assert not families["ws_deploy_lease_age_seconds"].samples
    status = DeployStatus("d1", "moving", "blue", "green", "me", "a1", 1, "", "")
    balancer.deploys.take(msgspec.json.encode(status), 1, time.monotonic() - 5)
    _, body = BalancerPages(balancer, EdgeCounts).render("format=prometheus", "")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    at = {sample.labels["state"]: sample.value for sample in families["ws_deploy_state"].samples}
    assert (at["moving"], at["done"], sum(at.values())) == (1, 0, 1)
    [age] = families["ws_deploy_lease_age_seconds"].samples
    assert 5 <= age.value < patient(60)
