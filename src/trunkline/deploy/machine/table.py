"""The states of a deploy and what leads from one to another: one table, complete. Pure.

Rules:

- What has to be true is observed before a state is left; what an event is decided from stands with each state.
- Before traffic was switched a deploy is undone; afterwards clients go back first.
- In `retiring` the old colour is being removed: nothing leads back.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from trunkline.protocol.deploys import DeployState


class Event(enum.Enum):
    """What happens to a deploy.

    Its state's conditions hold; they do not, or not in time; it cannot go on without a person; its stragglers are no
    longer waited for; a person has it rolled back, aborted, or tried again.
    """

    HOLDS = "holds"
    FAILS = "fails"
    BLOCKED = "blocked"
    FORCED = "forced"
    ROLLBACK = "rollback"
    ABORT = "abort"
    AGAIN = "again"


TRANSITIONS: Final[Mapping[tuple[DeployState, Event], DeployState]] = {
    ("planned", Event.HOLDS): "starting",
    ("planned", Event.FAILS): "refused",
    ("planned", Event.ROLLBACK): "refused",
    ("planned", Event.ABORT): "refused",
    ("starting", Event.HOLDS): "gating",
    ("starting", Event.FAILS): "undoing",
    ("starting", Event.ROLLBACK): "undoing",
    ("starting", Event.ABORT): "undoing",
    ("gating", Event.HOLDS): "smoking",
    ("gating", Event.FAILS): "undoing",
    ("gating", Event.ROLLBACK): "undoing",
    ("gating", Event.ABORT): "undoing",
    ("smoking", Event.HOLDS): "switching",
    ("smoking", Event.FAILS): "undoing",
    ("smoking", Event.ROLLBACK): "undoing",
    ("smoking", Event.ABORT): "undoing",
    ("switching", Event.HOLDS): "verifying",
    ("switching", Event.FAILS): "returning",
    ("switching", Event.ROLLBACK): "returning",
    ("switching", Event.ABORT): "refused",
    ("verifying", Event.HOLDS): "moving",
    ("verifying", Event.FAILS): "returning",
    ("verifying", Event.ROLLBACK): "returning",
    ("verifying", Event.ABORT): "refused",
    ("moving", Event.HOLDS): "finishing",
    ("moving", Event.FORCED): "finishing",
    ("moving", Event.FAILS): "returning",
    ("moving", Event.ROLLBACK): "returning",
    ("moving", Event.ABORT): "refused",
    ("finishing", Event.HOLDS): "holding",
    ("finishing", Event.FORCED): "holding",
    ("finishing", Event.FAILS): "returning",
    ("finishing", Event.ROLLBACK): "returning",
    ("finishing", Event.ABORT): "refused",
    ("holding", Event.HOLDS): "retiring",
    ("holding", Event.ROLLBACK): "returning",
    ("holding", Event.ABORT): "refused",
    ("retiring", Event.HOLDS): "done",
    ("retiring", Event.BLOCKED): "stuck",
    ("retiring", Event.ABORT): "refused",
    ("returning", Event.HOLDS): "rolled_back",
    ("returning", Event.BLOCKED): "stuck",
    ("returning", Event.ABORT): "refused",
    ("undoing", Event.HOLDS): "rolled_back",
    ("undoing", Event.BLOCKED): "stuck",
    ("undoing", Event.ABORT): "refused",
    ("stuck", Event.ROLLBACK): "returning",
    ("stuck", Event.ABORT): "refused",
}
"""Events that are not here change nothing. `AGAIN` leads from `stuck` to the state that could not go on."""


DOES: Final[Mapping[DeployState, tuple[str, str]]] = {
    "planned": ("looks whether anything speaks against it", "nothing does"),
    "starting": ("holds the new colour, and has its nodes started", "all are announced, with the right version"),
    "gating": ("asks each new node whether it is ready", "they were three times, with room for all clients"),
    "smoking": ("uses each new node as a client does, and measures its handshakes", "all pass"),
    "switching": ("places witnesses, and gives new connections to the new colour", "every balancer applies it"),
    "verifying": ("watches witnesses, errors, lag and where connections land", "all was well for `--verify`"),
    "moving": ("asks clients to move, wave by wave", "nobody is left who can be asked"),
    "finishing": ("drains the old colour", "nobody is left, or the deadline is over"),
    "holding": ("keeps the old colour, empty", "`--keep` is over"),
    "retiring": ("removes the old colour", "it is gone"),
    "returning": ("gives traffic and clients back to the old colour, and removes the new one", "it is gone"),
    "undoing": ("removes the new colour", "it is gone"),
    "done": ("nothing", ""),
    "rolled_back": ("nothing", ""),
    "refused": ("nothing", ""),
    "stuck": ("nothing: a person has to choose, and both colours run", "a person has chosen"),
}
"""What each state does, and when it is left."""
