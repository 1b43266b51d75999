"""`websockets` as a load generator: connections that keep the latency of each message in a list.

Usage: websockets_client.py URL CONNECTIONS RATE_EACH DURATION_S paced|closed|subscribed [uvloop]

paced: each connection sends at its own fixed moments, and latency counts from them as long as the answers keep up.
closed: it sends, awaits the answer and then pauses, as simple load scripts do; latency counts from the real sending.
subscribed: it sends nothing, and latency is the age of what is pushed to it.
Prints one JSON object: received, disordered, p50_ms, p99_ms.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time

from websockets.asyncio.client import ClientConnection, connect

MESSAGE = "m" * 64
SUBSCRIBE = '{"type":"subscribe","channels":["public.bench"]}'

latencies: list[float] = []
disordered: list[int] = []


async def paced(connection: ClientConnection, interval_s: float, due: float, end: float) -> None:
    while due < end:
        await asyncio.sleep(due - time.perf_counter())
        await connection.send(MESSAGE)
        await connection.recv()
        latencies.append(time.perf_counter() - due)
        due += interval_s


async def closed(connection: ClientConnection, interval_s: float, first: float, end: float) -> None:
    await asyncio.sleep(first - time.perf_counter())
    while (sent_at := time.perf_counter()) < end:
        await connection.send(MESSAGE)
        await connection.recv()
        latencies.append(time.perf_counter() - sent_at)
        await asyncio.sleep(interval_s)


async def listen(connection: ClientConnection) -> None:
    await connection.send(SUBSCRIBE)
    last = None
    async for received in connection:
        message = json.loads(received)
        if message["type"] == "publication":
            latencies.append(time.time() - message["data"]["t"] / 1e6)
            if last is not None and message["prev"] != last:
                disordered.append(message["offset"])
            last = message["offset"]


async def subscribed(connection: ClientConnection, interval_s: float, first: float, end: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(listen(connection), end - time.perf_counter())


async def main() -> None:
    url, count, rate_each, duration_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    go = {"paced": paced, "closed": closed, "subscribed": subscribed}[sys.argv[5]]
    connections = [await connect(url, compression=None) for _ in range(count)]
    begin = time.perf_counter()
    if rate_each or go is subscribed:
        interval_s = 1 / rate_each if rate_each else 0.0
        await asyncio.gather(
            *(
                go(connection, interval_s, begin + interval_s * number / count, begin + duration_s)
                for number, connection in enumerate(connections)
            )
        )
    else:
        await asyncio.sleep(duration_s)
    for connection in connections:
        await connection.close()
    found = {"received": len(latencies), "disordered": len(disordered)}
    if len(latencies) > 1:
        hundredths = statistics.quantiles(latencies, n=100, method="inclusive")
        found |= {"p50_ms": hundredths[49] * 1000, "p99_ms": hundredths[98] * 1000}
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[6:] == ["uvloop"]:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
