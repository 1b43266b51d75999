"""prometheus_client as most services use it: its own counters, gauges and histograms, rendered at each scrape.

Usage: prometheus_series.py PORT
"""

import asyncio
import sys

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from trunkline.metrics.series import SERIES


def fill(registry: CollectorRegistry) -> None:
    """As many families of each kind, with the same buckets, as a node of ours declares."""
    for series in SERIES:
        name = series.name.removesuffix("_total")
        if series.kind == "histogram":
            Histogram(name, series.help, buckets=series.buckets, registry=registry).observe(0.001)
            continue
        kind = Counter if series.kind == "counter" else Gauge
        metric = kind(name, series.help, series.labels, registry=registry)
        (metric.labels(*series.labels) if series.labels else metric).inc()


async def main() -> None:
    registry = CollectorRegistry()
    fill(registry)

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
