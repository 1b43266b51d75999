"""What a balancer makes of the stored deploy."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from trunkline.balancer.deploys import DeployWatch
from trunkline.protocol.deploys import DeployState, DeployStatus

STATUS = DeployStatus("d1", "moving", "blue", "green", "ci on build-7, process 12", "a1", 3, "", "")
NO_LEASE = {"done", "rolled_back", "refused", "stuck"}


def stored(state: DeployState = "moving") -> bytes:
    """What the store holds."""
    return msgspec.json.encode(msgspec.structs.replace(STATUS, state=state))


def test_a_lease_ages_until_its_revision_changes() -> None:
    """By the observer's own clock; the same revision again is no renewal."""
    watch = DeployWatch()
    assert watch.lease_age_s(100.0) is None
    watch.take(stored(), 7, 100.0)
    assert watch.lease_age_s(100.0) == 0.0
    watch.take(stored(), 7, 104.0)
    assert watch.lease_age_s(105.0) == 5.0
    watch.take(stored(), 8, 106.0)
    assert watch.lease_age_s(107.5) == 1.5


@pytest.mark.parametrize("state", get_args(DeployState))
def test_only_a_deploy_under_way_needs_a_lease(state: DeployState) -> None:
    """One that is over has ended, and one that is stuck waits for a person."""
    watch = DeployWatch()
    watch.take(stored(state), 1, 0.0)
    assert watch.status is not None
    assert watch.status.state == state
    assert watch.under_way is (state not in NO_LEASE)
    assert (watch.lease_age_s(1.0) is None) is (state in NO_LEASE)


@pytest.mark.parametrize(
    "value", [None, b"", b'{"id":"d1"}', msgspec.json.encode(STATUS).replace(b"moving", b"flying")]
)
def test_an_entry_that_is_gone_or_unreadable_is_no_deploy(value: bytes | None) -> None:
    """A later release may know more states; nothing is said of what is not understood."""
    watch = DeployWatch()
    watch.take(stored(), 1, 0.0)
    watch.take(value, 0 if value is None else 2, 1.0)
    assert watch.status is None
    assert not watch.under_way
    assert watch.lease_age_s(2.0) is None
