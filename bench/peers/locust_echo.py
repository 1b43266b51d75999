"""Locust with websocket-client: each user sends at its own pace, awaits the echo and reports its response time.

The rate of a user comes in BENCH_RATE_EACH; 0: it connects and waits.
"""

import os
import time

from locust import User, constant_pacing, constant_throughput, task

import websocket

MESSAGE = "m" * 64
RATE_EACH = float(os.environ["BENCH_RATE_EACH"])


class Echo(User):
    """One connection."""

    wait_time = constant_throughput(RATE_EACH) if RATE_EACH else constant_pacing(3600)

    def on_start(self) -> None:
        self.connection = websocket.create_connection(self.host)

    def on_stop(self) -> None:
        self.connection.close()

    @task
    def echo(self) -> None:
        if not RATE_EACH:
            return
        began = time.perf_counter()
        self.connection.send(MESSAGE)
        answer = self.connection.recv()
        self.environment.events.request.fire(
            request_type="WS",
            name="echo",
            response_time=(time.perf_counter() - began) * 1000,
            response_length=len(answer),
            exception=None,
            context={},
        )
