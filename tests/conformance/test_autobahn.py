"""The Autobahn cases against /ws/echo of a real node; the 9.* cases measure speed and run in bench."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

KOSOKU = shutil.which("kosoku", path=str(Path(sys.executable).parent)) or shutil.which("kosoku")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def echo_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "trunkline", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"PATH": "/usr/bin:/bin", "TRUNKLINE_ADMIN_PORT": "0", "TRUNKLINE_LOG_ACCESS": "false"}
    log = (tmp_path_factory.mktemp("node") / "node.log").open("wb")
    node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=log.name.rpartition("/")[0])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).close()
                break
            except OSError:
                assert node.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline, "the node was not ready in time"
        yield f"ws://127.0.0.1:{port}/ws/echo"
    finally:
        node.terminate()
        node.wait(10)
        log.close()


@pytest.mark.skipif(KOSOKU is None, reason="kosoku, which runs the Autobahn cases, is not installed")
@pytest.mark.timeout(900)
# In groups, for a case has only 30 s of its own, and the large compressed ones should not share the machine.
@pytest.mark.parametrize(
    ("cases", "parallel"),
    [
        ("basics", 4),
        *((f"{major}.{minor}.*", 2) for major, minors in ((12, 5), (13, 7)) for minor in range(1, minors + 1)),
    ],
)
def test_cases_pass(cases: str, parallel: int, echo_address: str, tmp_path: Path) -> None:
    """No case fails, and none that the server should implement is unimplemented."""
    assert KOSOKU is not None
    chosen = ["-x", "9.*", "-x", "12.*", "-x", "13.*"] if cases == "basics" else ["-i", cases]
    subprocess.run(
        [KOSOKU, *chosen, "-p", str(parallel), "-o", str(tmp_path), echo_address],
        check=False, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (results,) = json.loads((tmp_path / "index.json").read_text()).values()
    assert len(results) >= (200 if cases == "basics" else 17)
    bad = {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in results.items()
        if result["behavior"] not in ("OK", "NON-STRICT", "INFORMATIONAL")
        or result["behaviorClose"] not in ("OK", "INFORMATIONAL")
    }
    assert not bad
