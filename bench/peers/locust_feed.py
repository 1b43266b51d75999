"""Locust with websocket-client: each user subscribes and reports the delivery latency of every message pushed to it."""

import json
import time

from locust import User, task

import websocket


class Subscriber(User):
    """One connection."""

    def on_start(self) -> None:
        self.connection = websocket.create_connection(self.host)
        self.connection.send('{"type":"subscribe","channels":["public.bench"]}')

    @task
    def receive(self) -> None:
        last = None
        while True:
            received = self.connection.recv()
            message = json.loads(received)
            if message["type"] != "publication":
                continue
            in_order = last is None or message["prev"] == last
            last = message["offset"]
            self.environment.events.request.fire(
                request_type="WS",
                name="delivery",
                response_time=(time.time() - message["data"]["t"] / 1e6) * 1000,
                response_length=len(received),
                exception=None if in_order else ValueError("out of order"),
                context={},
            )
