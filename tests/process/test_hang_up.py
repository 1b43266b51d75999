"""A SIGHUP that comes while a server is still being loaded is kept for its loop."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.patience import patient

KEPT = """
import asyncio, os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started with nohup
from trunkline.process import hang_up
from trunkline.process.lifecycle import Signals
hang_up.hold()
os.kill(os.getpid(), signal.SIGHUP)
async def main():
    async with asyncio.timeout(10):
        await Signals(reloads=True).reload.wait()
asyncio.run(main())
print("reloads")
"""

COMMAND = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from trunkline.cli import main
sys.argv = ["trunkline", *{words}]
try:
    main()
except SystemExit:
    pass
print("held" if callable(signal.getsignal(signal.SIGHUP)) else "as it was")
"""


def printed(program: str) -> str:
    """What a Python program prints last, without a terminal of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=patient(20), check=True, start_new_session=True,
    )  # fmt: skip
    return done.stdout.split("\n")[-2]


def test_it_is_a_reload_once_the_loop_runs() -> None:
    assert printed(KEPT) == "reloads"


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["serve", "--port", "x"], "held"),
        (["balance", "--listen", "x"], "held"),
        (["up", "--nodes", "x"], "held"),
        (["serve", "--port", "x", "--reload"], "as it was"),
        (["config", "show", "--nothing"], "as it was"),
    ],
)
def test_commands_that_reload_keep_it_from_their_first_moment(words: list[str], last: str) -> None:
    assert printed(COMMAND.format(words=words)) == last
