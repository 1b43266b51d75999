"""Which alerts a deploy shows: those that an Alertmanager has as firing."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from tests.support.patience import patient
from trunkline.deploy.view.alerts import Alert, follow_alerts, read_alerts

FIRING = json.dumps(
    [
        {"labels": {"alertname": "TrunklineWatchdog", "severity": "none"}},
        {"labels": {"alertname": "TrunklineImbalance", "severity": "warning", "instance": "a"}},
        {"labels": {"alertname": "TrunklineImbalance", "severity": "warning", "instance": "b"}},
        {"labels": {"alertname": "TrunklineNodeDown", "severity": "critical"}, "startsAt": "2026-01-01T00:00:00Z"},
    ]
).encode()
SEEN = (Alert("TrunklineNodeDown", "critical", 1), Alert("TrunklineImbalance", "warning", 2))


def test_the_worst_is_first_and_each_counts_once() -> None:
    """Two Alertmanagers of one cluster have the same alerts; the watchdog always fires and is none."""
    assert read_alerts(FIRING, FIRING) == SEEN
    assert [str(alert) for alert in SEEN] == ["TrunklineNodeDown (critical)", "TrunklineImbalance x2 (warning)"]
    assert read_alerts() == ()


@pytest.mark.parametrize("answer", [b"<html>", b'{"labels":1}', b"\xff"])
async def test_alerts_are_asked_for_and_what_does_not_answer_has_none(answer: bytes) -> None:
    """One that fires, one that speaks nonsense, one where nobody listens: none of it raises or is said."""
    asked: list[str] = []

    async def alerts(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        return web.Response(body=FIRING if len(asked) == 1 else answer)

    app = web.Application()
    app.router.add_get("/api/v2/alerts", alerts)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    heard: list[tuple[Alert, ...]] = []
    following = asyncio.create_task(follow_alerts([f"{host}:{port}", "127.0.0.1:1"], heard.append, every_s=0.01))
    try:
        async with asyncio.timeout(patient(5)):
            while len(asked) < 3:
                await asyncio.sleep(0.01)
        assert heard == [SEEN]
        assert not following.done()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await runner.cleanup()
    assert "active=true" in asked[0]
    await follow_alerts([], heard.append)
