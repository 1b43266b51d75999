"""docs/deploys.md says what the code does: states, thresholds, exit codes; its commands are taken as they stand."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.support import ROOT
from trunkline import App
from trunkline.cli import deploy as deploy_command
from trunkline.cli.commands import app as commands
from trunkline.deploy.verdict.thresholds import DEFAULTS, METRICS

PAGE = (ROOT / "docs" / "deploys.md").read_text()
README = (ROOT / "README.md").read_text()


def taken(line: str) -> None:
    """Have a command line parsed, and carry nothing out; raises a usage error for one that is refused."""
    words = shlex.split(line, comments=True)
    command: Any = typer.main.get_command(commands)
    while hasattr(command, "resolve_command"):
        group = command.make_context("trunkline", list(words), resilient_parsing=True)
        # A group may add a word of its own: `load URL` is `load run URL`.
        _, command, words = command.resolve_command(group, [*group._protected_args, *group.args])
    command.make_context("trunkline", words)


def lines() -> list[str]:
    """Command lines of the page's samples, and of the README's that deploy."""
    shells = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) + re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    found = re.findall(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?trunkline (.*)$", "\n".join(shells), re.MULTILINE)
    return [line for line in found if "…" not in line and not line.startswith("load scenarios")]


def test_states_are_those_of_the_machine() -> None:
    """The table is what its generator makes of the machine's own."""
    made = runpy.run_path(str(ROOT / "docs" / "make_states.py"))["written"](PAGE)
    assert made == PAGE, "run: python docs/make_states.py"


@pytest.mark.parametrize("line", lines())
def test_commands_are_taken(line: str) -> None:
    """Every command with its options is there."""
    taken(line)


def test_an_unknown_option_would_be_noticed() -> None:
    """The check of the samples refuses what a shell would."""
    with pytest.raises(Exception, match="No such option"):
        taken("deploy run green --no-such-option")


def test_thresholds_are_the_default_ones() -> None:
    """All of them and no others are explained, and the metrics that the page names are there."""
    part = PAGE.partition("## What the numbers mean")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE) == [threshold.text for threshold in DEFAULTS]
    named = set(re.findall(r"`((?:away|witness_away)_\w+|refused|moving|waited|lasted)`", part))
    assert named <= set(METRICS)


def test_exit_codes_are_those_of_the_command() -> None:
    """Each code that the command names is in the table."""
    named = re.findall(r"(?:^|; |: )(\d+) ", (deploy_command.__doc__ or "").replace("\n", " "))
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == named


def test_the_broken_version_starts_and_has_no_feed(tmp_path: Path) -> None:
    """It is one that only the smoke finds out."""
    module = tmp_path / "broken.py"
    module.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    broken = runpy.run_path(str(module))["app"]
    assert isinstance(broken, App)
    assert not broken.declarations
