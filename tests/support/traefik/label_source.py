"""Containers for Traefik's Docker provider without Docker: the four questions that it asks a daemon."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def labelled_containers(labels: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Serve one running container for each set of labels; gives the endpoint for `providers.docker`."""
    containers = [_container(index, dict(own)) for index, own in enumerate(labels)]
    ended = threading.Event()

    class Daemon(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(b"OK")

        def do_GET(self) -> None:
            path = re.sub(r"^/v[\d.]+", "", self.path).partition("?")[0]
            if path == "/_ping":
                self._answer(b"OK")
            elif path == "/version":
                self._answer({"Version": "28.0.0", "ApiVersion": "1.48", "MinAPIVersion": "1.24", "Os": "linux"})
            elif path == "/containers/json":
                self._answer([{"Id": one["Id"], "Names": [one["Name"]], "State": "running"} for one in containers])
            elif found := re.fullmatch(r"/containers/(\w+)/json", path):
                self._answer(next(one for one in containers if one["Id"] == found.group(1)))
            elif path == "/events":
                self.send_response(200)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.flush()
                ended.wait()
            else:
                self._answer([])

        def _answer(self, body: object) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Api-Version", "1.48")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Daemon)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _container(index: int, labels: dict[str, str]) -> dict[str, object]:
    address = f"127.0.0.{index + 1}"
    return {
        "Id": f"c{index}",
        "Name": f"/backend-{index}",
        "State": {"Status": "running", "Running": True},
        "HostConfig": {"NetworkMode": "bridge"},
        "Config": {"Labels": labels},
        "NetworkSettings": {
            "Ports": {"8000/tcp": None},
            "Networks": {"bridge": {"IPAddress": address, "NetworkID": "n1"}},
        },
    }
