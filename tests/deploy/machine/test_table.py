"""The table of a deploy's states is complete: each can be reached, left, and ended."""

from __future__ import annotations

from typing import get_args

import pytest

from trunkline.deploy.machine.step import DECIDE
from trunkline.deploy.machine.table import DOES, TRANSITIONS, Event
from trunkline.protocol.deploys import OVER, DeployState

STATES: tuple[DeployState, ...] = get_args(DeployState)


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_decided_and_described(state: DeployState) -> None:
    """One that is over decides nothing; each other one has its decision and its line in the documentation."""
    assert (state in DECIDE) is (state not in OVER)
    assert state in DOES
    assert any(source == state for source, _ in TRANSITIONS) is (state not in OVER)
    assert state == "planned" or state in TRANSITIONS.values()


def reachable(start: DeployState) -> set[DeployState]:
    """States that the table leads to from one."""
    found, ahead = {start}, [start]
    while ahead:
        here = ahead.pop()
        for (source, _), target in TRANSITIONS.items():
            if source == here and target not in found:
                found.add(target)
                ahead.append(target)
    return found


@pytest.mark.parametrize("state", [state for state in STATES if state not in OVER])
def test_each_state_ends(state: DeployState) -> None:
    """From everywhere a way leads to an end, and a person can end it."""
    assert reachable(state) & OVER
    assert (state, Event.ABORT) in TRANSITIONS


def test_nothing_leads_back_from_the_point_of_no_return() -> None:
    """Once the old colour is being removed only a person, who sees that it is stuck, has clients go back."""
    assert TRANSITIONS["retiring", Event.HOLDS] == "done"
    assert ("retiring", Event.ROLLBACK) not in TRANSITIONS
    assert "returning" not in {target for (source, _), target in TRANSITIONS.items() if source == "retiring"}


def test_before_the_switch_it_is_undone_and_afterwards_it_returns() -> None:
    """Clients are never left on a colour that is removed."""
    undone = {source for (source, event), target in TRANSITIONS.items() if target == "undoing"}
    back = {source for (source, event), target in TRANSITIONS.items() if target == "returning"}
    assert undone == {"starting", "gating", "smoking"}
    assert back == {"switching", "verifying", "moving", "finishing", "holding", "stuck"}
