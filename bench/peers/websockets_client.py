"""`websockets` as a load generator: connections that each send, await the echo and keep its latency in a list.

Usage: websockets_client.py URL CONNECTIONS RATE_EACH DURATION_S paced|closed [uvloop]

paced: each connection sends at its own fixed moments, and latency counts from them as long as the answers keep up.
closed: it sends, awaits the answer and then pauses, as simple load scripts do; latency counts from the real sending.
Prints one JSON object: received, p50_ms, p99_ms.
"""

import asyncio
import json
import statistics
import sys
import time

from websockets.asyncio.client import ClientConnection, connect

MESSAGE = "m" * 64

latencies: list[float] = []


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


async def main() -> None:
    url, count, rate_each, duration_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    go = {"paced": paced, "closed": closed}[sys.argv[5]]
    connections = [await connect(url, compression=None) for _ in range(count)]
    begin = time.perf_counter()
    if rate_each:
        interval_s = 1 / rate_each
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
    found = {"received": len(latencies)}
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
