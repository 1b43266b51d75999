"""How a command of `trunkline deploy` ends: the verdict in every requested form, one line for people, an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from trunkline.errors import SettingsError, TrunklineError

if TYPE_CHECKING:
    from trunkline.deploy.parts import Outcome
    from trunkline.deploy.verdict.verdict import DeployVerdict

FAILED: Final = 1
HELD: Final = 5
REFUSED: Final = 6
INTERRUPTED: Final = 130


class Deliver:
    """Hands a verdict over: on standard output, and as files; raises SettingsError for a file that cannot be written.

    What cannot be written at the end is said, and changes no exit code: the deploy is over.
    """

    def __init__(self, html: Path | None, junit: Path | None, as_json: bool) -> None:
        from trunkline.cli.load import check_writable

        for path in (html, junit):
            check_writable(path)
        self._html = html
        self._junit = junit
        self._as_json = as_json

    def __call__(self, verdict: DeployVerdict) -> None:
        """Do it, the files first: whoever reads standard output may have gone."""
        from trunkline.deploy.verdict.junit import junit
        from trunkline.deploy.verdict.page import page
        from trunkline.deploy.verdict.text import text
        from trunkline.deploy.verdict.verdict import encode

        for path, make in ((self._html, page), (self._junit, junit)):
            if path is not None:
                try:
                    path.write_bytes(make(verdict))
                except OSError as error:
                    say(f"{path} cannot be written: {error.strerror}")
        write_out(encode(verdict).decode() + "\n" if self._as_json else text(verdict, sys.stdout.encoding or "utf-8"))


def tell(outcome: Outcome, deliver: Callable[[DeployVerdict], None]) -> int:
    """Hand over what there is of it, and say what is next; returns the exit code."""
    from trunkline.deploy.verdict.facts import turned_back
    from trunkline.protocol.deploys import OVER

    if outcome.interrupted:
        say(f"interrupted in {outcome.state}; go on with: trunkline deploy resume")
        return outcome.exit_code
    deliver(outcome.verdict)
    if outcome.state not in OVER:
        say(
            f"the deploy is {outcome.state}: {outcome.why}. Both colours run; "
            "trunkline deploy resume tries again, rollback and abort end it"
        )
    elif outcome.state == "rolled_back":
        turned = turned_back(outcome.verdict.facts.spans)
        if turned is not None:
            say(f"rolled back from {turned.state}: {turned.why}")
    return outcome.exit_code


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run it, and exit with its code; what keeps it from beginning is one line."""
    raise typer.Exit(code_of(main))


def code_of(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run it, and return its code; raises SettingsError and StartError, which exit with 2."""
    from trunkline.deploy.lease.lease import LeaseHeld, LeaseLost
    from trunkline.deploy.run import NotTaken
    from trunkline.errors import StartError
    from trunkline.process import lifecycle

    try:
        return lifecycle.run(main)
    except (LeaseHeld, LeaseLost) as error:
        say(str(error))
        return HELD
    except NotTaken as error:
        say(str(error))
        return INTERRUPTED
    except (SettingsError, StartError):
        raise
    except TrunklineError as error:
        return refused(str(error))


def refused(why: str) -> int:
    """Nothing was begun."""
    say(f"refused: {why}")
    return REFUSED


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(f"trunkline: {text}", file=sys.stderr)


def write_out(text: str) -> None:
    """Write a result to standard output, whose reader may have gone."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        say(f"the result cannot be printed: {error.strerror}")
        # What is still buffered would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
