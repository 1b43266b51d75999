"""The performance cases (9.*) of the Autobahn suite against /ws/echo: all have to pass."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.errors import BenchError
from bench.rows import CpuMeter, Options, Result, Row
from bench.servers import Server, ours

TIMEOUT_S = 300


def run(options: Options) -> Result:
    """Run them."""
    if importlib.util.find_spec("kosoku") is None:
        return Result([], ["kosoku is not installed: left out."])
    cases = "9.1.*" if options.quick else "9.*"
    with Server(ours()) as server, tempfile.TemporaryDirectory() as directory:
        host, port = server.address
        command = [str(Path(sys.executable).with_name("kosoku")), "-i", cases, "-o", directory]
        began = time.monotonic()
        with CpuMeter(server) as cpu:
            done = subprocess.run(
                [*command, f"ws://{host}:{port}/ws/echo"],
                capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        took_s = time.monotonic() - began
        index = Path(directory) / "index.json"
        if not index.exists():
            raise BenchError(f"kosoku made no report:\n{done.stderr[-2000:]}")
        (results,) = json.loads(index.read_text()).values()
    failed = [case for case, result in results.items() if result["behavior"] not in ("OK", "INFORMATIONAL")]
    slowest = sorted(results.items(), key=lambda item: item[1]["duration"], reverse=True)[:3]
    notes = [
        f"{len(results)} cases in {took_s:.1f} s, {cpu.used_s:.1f} s of the server's CPU; slowest: "
        + ", ".join(f"{case} ({result['duration']} ms)" for case, result in slowest) + "."
    ]  # fmt: skip
    if failed:
        notes.append("Failed: " + ", ".join(failed) + ".")
    return Result(
        [Row(f"Autobahn {cases} on /ws/echo, cases failed", len(failed), f"of {len(results)}", target=0)], notes
    )
