"""A real Traefik for tests: written configuration in, router states and log out; killed at the end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.free_ports import free_port
from tests.support.patience import patient

BESIDE = Path(sys.executable).with_name("traefik")
TRAEFIK = str(BESIDE) if BESIDE.exists() else shutil.which("traefik")


class LiveTraefik:
    """A running Traefik whose API answers on a port of its own."""

    def __init__(self, process: subprocess.Popen[bytes], api_port: int, log: Path) -> None:
        self.process = process
        self.api_port = api_port
        self._log = log

    def get(self, path: str) -> Any:
        """A page of Traefik's API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}{path}", timeout=patient(2)) as answer:
            return json.load(answer)

    def routers(self) -> dict[str, dict[str, Any]]:
        """Routers by name with provider."""
        return {router["name"]: router for router in self.get("/api/http/routers?per_page=500")}

    def log_lines(self) -> list[str]:
        """Everything logged so far."""
        return self._log.read_text(errors="replace").splitlines()

    def errors(self) -> list[str]:
        """Lines of the log that complain."""
        words = (" ERR ", " FTL ", '"level":"error"', '"level":"fatal"')
        return [line for line in self.log_lines() if any(word in line for word in words)]

    def wait(self, done: Any, what: str, limit_s: float = 15.0) -> Any:
        """Ask again until `done()` is true."""
        deadline = time.monotonic() + patient(limit_s)
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"Traefik ended while waiting for {what}:\n" + "\n".join(self.log_lines()))
            try:
                found = done()
            except (OSError, ValueError):
                found = None
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"no {what} after {limit_s} s:\n" + "\n".join(self.log_lines()))


def with_api(static_text: str, port: int) -> str:
    """A static configuration that also opens the API on `port`."""
    static = yaml.safe_load(static_text) or {}
    static["api"] = {**(static.get("api") or {}), "insecure": True}
    # Colours would stand between the words that tests look for.
    static["log"] = {**(static.get("log") or {}), "noColor": True}
    points = next((name for name in static if name.lower() == "entrypoints"), "entryPoints")
    static.setdefault(points, {})["traefik"] = {"address": f"127.0.0.1:{port}"}
    return yaml.safe_dump(static, sort_keys=False)


@contextmanager
def running(directory: Path, static_text: str) -> Iterator[LiveTraefik]:
    """Run Traefik with `static_text` until the block ends."""
    assert TRAEFIK is not None
    port = free_port()
    config = directory / "traefik.yml"
    config.write_text(with_api(static_text, port))
    log = directory / "traefik.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [TRAEFIK, f"--configFile={config}"], stdout=sink, stderr=subprocess.STDOUT, cwd=directory
        )
        try:
            traefik = LiveTraefik(process, port, log)
            traefik.wait(lambda: traefik.get("/api/overview"), "API")
            yield traefik
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def refused(directory: Path, static_text: str, limit_s: float = 15.0) -> str | None:
    """The log of a Traefik that ends by itself because of its static configuration; None when it runs."""
    assert TRAEFIK is not None
    config = directory / "refused.yml"
    config.write_text(with_api(static_text, free_port()))
    log = directory / "refused.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [TRAEFIK, f"--configFile={config}"], stdout=sink, stderr=subprocess.STDOUT, cwd=directory
        )
        try:
            deadline = time.monotonic() + patient(limit_s)
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    return log.read_text(errors="replace")
                if "Starting provider" in log.read_text(errors="replace"):
                    return None
                time.sleep(0.02)
            return None
        finally:
            process.kill()
            process.wait()
