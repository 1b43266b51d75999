"""The commands of a deploy, for `cli` and for tests: run, resume, rollback, abort, status.

Rule: `run_deploy` and `resume_deploy` drive it in this process until it is over or stuck, or `Parts.stop` is set. An
order to roll back or abort is left for the process that drives it; where none does, this one takes the lease.
"""

from __future__ import annotations

from trunkline.bus.base import FleetStore
from trunkline.deploy.parts import DeployOptions, Outcome, Parts
from trunkline.protocol.deploys import DeployStatus


async def run_deploy(options: DeployOptions, parts: Parts) -> Outcome:
    """Begin a deploy and drive it.

    Raises:
        LeaseHeld: there is one that is not over (exit code 5).
        StatusUnreadable: what is stored is of another release.
        FleetUnreachable: no balancer can be reached, so that nothing was begun.
        BusUnavailable: the store cannot be reached.
        LeaseLost: another process took it over meanwhile.
    """
    raise NotImplementedError


async def resume_deploy(parts: Parts, owner: str) -> Outcome:
    """Go on with the deploy there is.

    Raises:
        LeaseHeld: another process drives it (exit code 5).
        NothingToResume: there is none.
        StatusUnreadable, BusUnavailable, LeaseLost: as `run_deploy`.
    """
    raise NotImplementedError


async def roll_back(parts: Parts, owner: str) -> Outcome:
    """Have the deploy rolled back; from `retiring` on there is nothing to go back to. Raises as `resume_deploy`."""
    raise NotImplementedError


async def abort_deploy(parts: Parts, owner: str) -> Outcome:
    """End the deploy: undone before traffic was switched, afterwards left as it is. Raises as `resume_deploy`."""
    raise NotImplementedError


async def read_status(store: FleetStore) -> DeployStatus | None:
    """The present or last deploy, None when there was none. Raises StatusUnreadable, BusUnavailable."""
    raise NotImplementedError
