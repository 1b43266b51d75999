"""What everybody may know of a deploy: its state and its lease, as they are in the fleet's store. Pure.

Rules:

- One deploy at a time: it is the value of one key, written by compare and set.
- The lease is the key's revision: its owner writes the value again every `RENEW_S`. An observer takes it for expired
  when the revision has not changed for `EXPIRED_S` of the observer's own monotonic clock; no clock is compared with
  another machine's.
- What the tool itself needs beside this is in `record`, which nobody else reads.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

DEPLOY_KEY: Final = "deploy"
"""Where the present or last deploy is in the fleet's store."""

VERDICTS: Final = "deploys."
"""Verdicts are kept under this and the deploy's id."""

RENEW_S: Final = 5.0
EXPIRED_S: Final = 15.0

DeployState = Literal[
    "planned", "starting", "gating", "smoking", "switching", "verifying", "moving", "finishing", "holding", "retiring",
    "returning", "undoing", "done", "rolled_back", "refused", "stuck",
]  # fmt: skip

OVER: Final[frozenset[DeployState]] = frozenset({"done", "rolled_back", "refused"})
"""The states in which nothing is left to do, so that another deploy may begin; in `stuck` a person has to choose."""


class DeployStatus(msgspec.Struct, frozen=True):
    """The value of `DEPLOY_KEY`.

    Attributes:
        id: drawn at its start.
        from_colour: the colour that has the clients; empty for none.
        owner: who runs it, in words for people: user, machine and process.
        holder: drawn by each process that takes the lease, so that it knows its own writes; empty when given up.
        renewals: counts the writes of the present holder.
        started_at: when it began, UTC as RFC 3339 has it.
        since: when the present state was entered.
        record: everything else, of the tool alone.
    """

    id: str
    state: DeployState
    from_colour: str
    to_colour: str
    owner: str
    holder: str
    renewals: int
    started_at: str
    since: str
    record: msgspec.Raw = msgspec.Raw(b"null")
