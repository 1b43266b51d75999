"""Honest names: what a node and a balancer really expose pleases promtool's linter, the aliases aside."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from tests.support.free_ports import free_port
from tests.support.monitor.serving import running
from tests.support.patience import patient
from trunkline.metrics.series import ALIASES, BALANCER_SERIES, SERIES

EXCEPTED = {
    # The name was given by the dashboards that the aliases are for; it is a gauge there.
    "websocket_connections_total": 'non-counter metrics should not have "_total" suffix',
}
"""What the linter may say, by name."""

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def complaints(text: str) -> set[tuple[str, str]]:
    """What `promtool check metrics` says of an exposition: name and complaint."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=patient(30), check=False
    )
    said = {tuple(line.split(" ", 1)) for line in (done.stdout + done.stderr).splitlines() if line.strip()}
    assert (done.returncode == 0) == (not said), done
    return {(name.rstrip(":"), what) for name, what in said}


async def scrape(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.text()


async def serve_and_scrape(tmp_path: Path, **environ: str) -> str:
    """The exposition of a node that has had a client, an error and a refusal, so that labelled series are there."""
    port = free_port()
    async with running(
        tmp_path, "serve", "--host", "127.0.0.1", "--port", str(port),
        ready=f"http://127.0.0.1:{port}/ready", TRUNKLINE_ADMIN_PORT="0", TRUNKLINE_SERVER_DRAIN_MS="0", **environ,
    ):  # fmt: skip
        with pytest.raises(Exception, match="404"):
            await connect(f"ws://127.0.0.1:{port}/nowhere")
        async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
            await socket.send("no JSON")
            async with asyncio.timeout(patient(10)):
                while '"error"' not in str(await socket.recv()):
                    pass
        return await scrape(f"http://127.0.0.1:{port}/metrics")


def names(text: str) -> set[str]:
    """Names as scraped: a counter's family has lost its `_total`."""
    families = text_string_to_metric_families(text)
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


async def test_a_nodes_names_are_clean(tmp_path: Path) -> None:
    """Every declared series is exposed under its name, nothing else is, and the linter has nothing to say."""
    text = await serve_and_scrape(tmp_path)
    assert 'ws_errors_total{code="' in text
    assert names(text) == {series.name for series in SERIES}
    assert complaints(text) == set()


async def test_aliases_are_the_only_exception(tmp_path: Path) -> None:
    """With the aliases, the linter says what is excepted here and nothing more."""
    text = await serve_and_scrape(tmp_path, TRUNKLINE_METRICS_ALIASES="websocket,go")
    assert names(text) == {series.name for series in SERIES} | {
        alias for family in ALIASES.values() for alias in family
    }
    assert complaints(text) == set(EXCEPTED.items())


async def test_a_balancers_names_are_clean(tmp_path: Path) -> None:
    """The same for a relay with a backend that it has relayed to and one that it cannot reach."""
    node, port, admin, nobody = free_port(), free_port(), free_port(), free_port()
    (tmp_path / "node").mkdir()
    async with (
        running(
            tmp_path / "node", "serve", "--host", "127.0.0.1", "--port", str(node),
            ready=f"http://127.0.0.1:{node}/ready", TRUNKLINE_ADMIN_PORT="0", TRUNKLINE_SERVER_DRAIN_MS="0",
        ),
        running(
            tmp_path, "balance", "--listen", f"127.0.0.1:{port}",
            "--backend", f"http://127.0.0.1:{node}", "--backend", f"http://127.0.0.1:{nobody}",
            ready=f"http://127.0.0.1:{admin}/healthz",
            TRUNKLINE_BALANCER_ADMIN_PORT=str(admin), TRUNKLINE_BALANCER_DRAIN_MS="0",
        ),
        connect(f"ws://127.0.0.1:{port}/ws"),
    ):  # fmt: skip
        text = await scrape(f"http://127.0.0.1:{admin}/metrics")
    assert re.search(r"^ws_balancer_picks_total\{", text, re.MULTILINE)
    assert names(text) == {series.name for series in BALANCER_SERIES}
    assert complaints(text) == set()


def test_the_linter_does_complain() -> None:
    """What this file relies on: a gauge called a total, a unit that is no base unit and a missing help are told."""
    found = complaints(
        "# TYPE a_total gauge\na_total 1\n# HELP b_milliseconds B.\n# TYPE b_milliseconds gauge\nb_milliseconds 1\n"
    )
    assert {name for name, _ in found} == {"a_total", "b_milliseconds"}
