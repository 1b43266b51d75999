"""The Autobahn cases against /ws/echo of a real node: directly, through the relay, and through Traefik with steering.

The 9.* cases measure speed and run in bench. The compressed cases (12.*, 13.*) take minutes. An edge passes bytes as
they are, so one group of them is run through the edges. Of groups that differ from the first by content or parameters
alone the nine cases with the smallest messages are run: a case has only 30 s, too few for the others on a busy machine.
CONFORMANCE=full runs all of them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import reaper
from tests.support.free_ports import free_port
from tests.support.patience import patient

KOSOKU = shutil.which("kosoku", path=str(Path(sys.executable).parent)) or shutil.which("kosoku")


FULL = os.environ.get("CONFORMANCE") == "full"
GROUPS = [f"{major}.{minor}" for major, minors in ((12, 5), (13, 7)) for minor in range(1, minors + 1)]
COMPRESSED = [f"{group}.{'*' if FULL or group in ('12.1', '13.1') else '1-9'}" for group in GROUPS]
THROUGH_EDGES = COMPRESSED if FULL else ["13.1.*"]


@pytest.fixture(scope="module")
def address_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The address of a node in a process of its own, or of a fleet of one node behind an edge; each is started once."""
    with contextlib.ExitStack() as running:
        yield functools.cache(lambda kind: running.enter_context(started(kind, tmp_path_factory.mktemp(kind))))


@contextlib.contextmanager
def started(kind: str, directory: Path) -> Iterator[str]:
    """Start a node (`node`) or a fleet (by its edge)."""
    environment = {"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(directory), "TRUNKLINE_LOG_ACCESS": "false"}
    environment[reaper.VARIABLE] = os.environ[reaper.VARIABLE]
    if kind == "node":
        port = free_port()
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(port)]
        environment["TRUNKLINE_ADMIN_PORT"] = "0"
    else:
        arguments = ["up", "--nodes", "1", "--edge", kind, "--port", "0", "--json"]
        environment["TRUNKLINE_SERVER_DRAIN_MS"] = "0"
    log = directory / "said.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "trunkline", *arguments], env=environment, stdout=out, stderr=out, cwd=directory
        )
        try:
            if kind == "node":
                wait_until(process, log, lambda: answers(f"http://127.0.0.1:{port}/ready"))
                yield f"ws://127.0.0.1:{port}/ws/echo"
            else:
                wait_until(process, log, lambda: b'"type":"addresses"' in log.read_bytes())
                said = [json.loads(line) for line in log.read_text().splitlines()]
                (addresses,) = (each for each in said if each["type"] == "addresses")
                yield addresses["edge"]["websocket"] + "/echo"
        finally:
            process.terminate()
            process.wait(patient(30))


def wait_until(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    """Wait until `ready`, as long as the process runs."""
    deadline = time.monotonic() + patient(40)
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"not ready in time: {log.read_text()}"
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether somebody answers there with success."""
    try:
        urllib.request.urlopen(url, timeout=patient(1)).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(KOSOKU is None, reason="kosoku, which runs the Autobahn cases, is not installed")
@pytest.mark.timeout(900)
# In groups, for a case has only 30 s of its own, and the large compressed ones should not share the machine.
@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        *(("node", cases) for cases in ("basics", *COMPRESSED)),
        *((edge, cases) for edge in ("relay", "traefik") for cases in ("basics", *THROUGH_EDGES)),
    ],
)
def test_cases_pass(address_of: Callable[[str], str], kind: str, cases: str, tmp_path: Path) -> None:
    """No case fails, and none that the server should implement is unimplemented."""
    assert KOSOKU is not None
    group, _, numbers = cases.rpartition(".")
    if cases == "basics":
        chosen = ["-x", "9.*", "-x", "12.*", "-x", "13.*"]
    else:
        each = range(1, 10) if numbers == "1-9" else ["*"]
        chosen = [word for number in each for word in ("-i", f"{group}.{number}")]
    subprocess.run(
        [KOSOKU, *chosen, "-p", "4" if cases == "basics" else "2", "-o", str(tmp_path), address_of(kind)],
        check=False, timeout=patient(600), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (results,) = json.loads((tmp_path / "index.json").read_text()).values()
    assert len(results) >= (200 if cases == "basics" else 9 if numbers == "1-9" else 17)
    bad = {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in results.items()
        if result["behavior"] not in ("OK", "NON-STRICT", "INFORMATIONAL")
        or result["behaviorClose"] not in ("OK", "INFORMATIONAL")
    }
    assert not bad
