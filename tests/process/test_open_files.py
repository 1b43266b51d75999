from __future__ import annotations

import errno
import resource
import subprocess
import sys

import pytest

from trunkline.process.open_files import MOST_OTHERS, Shares, exhausted, raise_limit


@pytest.mark.parametrize("files", [64, 256, 1024, 4096, 20_000, 1 << 20])
@pytest.mark.parametrize("each", [1, 2])
def test_the_shares_never_exceed_the_limit(files: int, each: int) -> None:
    """Connections, pending ones and the admin port fit at any number of connections, and none is left without any."""
    shares = Shares(files, each)
    assert shares.connections >= 1
    for connections in range(0, shares.connections + 1, max(shares.connections // 100, 1)):
        pending = shares.pending(connections)
        assert 4 <= pending <= max(4, files // 4)
        assert connections * each + pending + shares.admin <= files
    assert shares.admin <= max(4, min(files // 8, MOST_OTHERS))


def test_a_common_limit_holds_what_it_held() -> None:
    """20,000 files hold 9,000 relayed connections, or the 10,000 of a node without a memory limit."""
    assert Shares(20_000, 2).connections >= 9_000
    assert Shares(20_000).connections >= 10_000


@pytest.mark.parametrize(("soft", "hard", "found"), [(64, 300, 300), (300, 300, 300)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, found: int) -> None:
    """Whatever runs by `lifecycle.run` may open all files that it is allowed to."""
    script = (
        "import resource; from trunkline.process import lifecycle\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "async def main(): print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "lifecycle.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(found), str(hard)]


def test_where_less_is_granted_than_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite hard limit, as on macOS, grants what the system has: half of that or more is found."""
    soft = 256

    def grant(_: int, wanted: tuple[int, int]) -> None:
        nonlocal soft
        if wanted[0] > granted:
            raise ValueError("current limit exceeds maximum limit")
        soft = wanted[0]

    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    monkeypatch.setattr("resource.setrlimit", grant)
    granted = 61_440
    assert raise_limit() == soft == 32_768
    soft = granted = 300
    assert raise_limit() == 300


def test_errors_that_blame_no_peer() -> None:
    """Only a lack of this machine's own is one."""
    assert exhausted(OSError(errno.EMFILE, "x"))
    assert not exhausted(OSError(errno.ECONNREFUSED, "x"))
    assert not exhausted(ValueError())
