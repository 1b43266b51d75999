"""docs/tuning.md explains each check, and gives the values that doctor wants."""

from __future__ import annotations

import re
import shlex
import typing

import pytest
import typer

from tests.support import ROOT
from trunkline.cli.commands import app as commands
from trunkline.doctor.checks.advice import OF_CONTAINERS, SYSCTL_FILE
from trunkline.doctor.checks.network import PORTS
from trunkline.doctor.examine import examine
from trunkline.doctor.facts import Machine, ServiceKind
from trunkline.doctor.wanted import Wanted
from trunkline.net.listening import BACKLOG

PAGE = (ROOT / "docs" / "tuning.md").read_text()


def test_each_check_has_a_section() -> None:
    """In the order of the output; the servers have one together."""
    checks = [finding.check for finding in examine(Machine("Linux"), Wanted())]
    part = PAGE.partition("## What is checked")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.+)$", part, re.MULTILINE) == [*checks, ", ".join(typing.get_args(ServiceKind))]


def test_values_are_those_of_the_checks() -> None:
    """The file of the page holds what the lines of doctor say, and marks what a container has for itself."""
    block = next(part for part in re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL) if "somaxconn" in part)
    lines = [line.partition("#") for line in block.splitlines()]
    values = dict(before.strip().split(" = ") for before, _, _ in lines)
    assert values["net.core.somaxconn"] == values["net.ipv4.tcp_max_syn_backlog"] == str(BACKLOG)
    assert values["net.ipv4.ip_local_port_range"] == PORTS
    assert {before.split()[0] for before, _, after in lines if "each container" in after} == OF_CONTAINERS
    assert SYSCTL_FILE in PAGE


@pytest.mark.parametrize("line", [*re.findall(r"^trunkline (doctor .*)$", PAGE, re.MULTILINE), "doctor"])
def test_commands_are_taken(line: str) -> None:
    """Every option is there."""
    _, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(commands).commands["doctor"]  # type: ignore[attr-defined]
    command.make_context("doctor", words)
