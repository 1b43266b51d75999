"""How commands of a deploy end: exit codes, and what is said on which stream."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.deploy.example_facts import example_facts
from trunkline.cli.deploy.outcome import HELD, INTERRUPTED, REFUSED, Deliver, code_of, tell
from trunkline.deploy.lease.lease import LeaseHeld, LeaseLost
from trunkline.deploy.parts import Outcome
from trunkline.deploy.run import NotTaken
from trunkline.deploy.verdict.verdict import make_verdict
from trunkline.errors import SettingsError, TrunklineError
from trunkline.protocol.deploys import DeployState, DeployStatus

FACTS = example_facts()
STATUS = DeployStatus("d1", "moving", "blue", "green", "ann@host, process 7", "h", 3, "T0", "T1")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LeaseHeld(STATUS), HELD, "deploy d1 to green is moving since T1, driven by ann@host, process 7"),
        (LeaseLost(STATUS), HELD, "another process drives the deploy now: ann@host"),
        (NotTaken(STATUS), INTERRUPTED, "interrupted before the deploy was taken over; it is moving"),
        (TrunklineError("no balancer"), REFUSED, "refused: no balancer"),
    ],
    ids=["held", "lost", "not taken", "refused"],
)
def test_what_keeps_it_from_ending(error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and nothing where a result is read."""

    async def main() -> int:
        raise error

    assert code_of(main) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"trunkline: {said}")
    assert err.count("\n") == 1


def test_wrong_settings_are_the_commands_own() -> None:
    """They exit with 2, as everywhere."""

    async def main() -> int:
        await asyncio.sleep(0)
        raise SettingsError("--edge", allowed="name it")

    with pytest.raises(SettingsError):
        code_of(main)


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("done", 0, ""),
        ("rolled_back", 3, ""),
        ("refused", 6, ""),
        ("stuck", 4, "the deploy is stuck: neither. Both colours run; trunkline deploy resume tries again"),
    ],
)
def test_each_end_has_its_code_and_its_verdict(
    state: DeployState, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that is stuck: a machine reads it from standard output and the files."""
    outcome = Outcome("d1", state, "neither", make_verdict(replace(FACTS, ended=state)))
    assert tell(outcome, Deliver(tmp_path / "v.html", tmp_path / "v.xml", as_json=True)) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["facts"]["ended"] == state
    assert (tmp_path / "v.html").exists()
    assert (tmp_path / "v.xml").exists()
    assert said in err


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no verdict yet."""
    outcome = Outcome("d1", "moving", "", make_verdict(FACTS), interrupted=True)
    assert tell(outcome, lambda _verdict: pytest.fail("it is not over")) == INTERRUPTED
    assert capsys.readouterr() == ("", "trunkline: interrupted in moving; go on with: trunkline deploy resume\n")


def test_a_file_that_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    """Not after the deploy."""
    with pytest.raises(SettingsError, match="directory that can be written to"):
        Deliver(tmp_path / "none" / "v.html", None, as_json=False)
