"""Verdicts in the fleet's store, beside the deploys that they are of: the newest `KEPT`.

Rules: a verdict that is longer than the store takes loses seconds of its samples, and then the ends of its longest
texts. One that cannot be read, because a newer release wrote it, is passed over in a list and named when it is asked
for.
"""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec
from msgspec.structs import replace

from trunkline.bus.base import FleetStore
from trunkline.deploy.verdict.samples import thinned
from trunkline.deploy.verdict.verdict import DeployVerdict, decode
from trunkline.errors import Changed, TrunklineError
from trunkline.protocol.deploys import VERDICTS

KEPT: Final = 30
"""Verdicts that are kept; the oldest go first."""

LONGEST_BYTES: Final = 256 * 1024
"""How long a verdict may be in the store."""

_TEXT: Final = 500
"""Characters that are left of each note and reason of one that is longer without them."""


class UnreadableVerdict(TrunklineError):
    """What is stored as a verdict cannot be read."""


async def keep(store: FleetStore, verdict: DeployVerdict) -> None:
    """Store a verdict under its deploy's id, over an earlier one of the same; raises BusUnavailable."""
    await store.put(VERDICTS + verdict.facts.id, _fitted(verdict), None)
    for old in (await history(store))[KEPT:]:
        # By a clock that was set back it may seem older than all others.
        if old.facts.id != verdict.facts.id:
            with contextlib.suppress(Changed):
                await store.delete(VERDICTS + old.facts.id, None)


async def read(store: FleetStore, id: str = "") -> DeployVerdict | None:
    """The verdict of a deploy, or the newest one; None when there is none.

    Raises UnreadableVerdict, and BusUnavailable.
    """
    if not id:
        kept = await history(store)
        return kept[0] if kept else None
    try:
        entry = await store.get(VERDICTS + id)
    except ValueError:
        return None  # no key, hence no id
    if entry is None:
        return None
    try:
        return decode(entry.value)
    except msgspec.MsgspecError as error:
        raise UnreadableVerdict(f"the verdict of deploy {id} cannot be read: {error}") from None


async def history(store: FleetStore) -> tuple[DeployVerdict, ...]:
    """The verdicts that are kept and can be read, newest first; raises BusUnavailable."""
    found: list[DeployVerdict] = []
    for key in await store.keys(VERDICTS):
        entry = await store.get(key)
        if entry is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(decode(entry.value))
    return tuple(sorted(found, key=lambda verdict: (verdict.facts.started_at, verdict.facts.id), reverse=True))


def _fitted(verdict: DeployVerdict) -> bytes:
    text = msgspec.json.encode(verdict)
    most = len(verdict.facts.samples)
    while len(text) > LONGEST_BYTES and most > 1:
        most = max(1, most // 2)
        facts = replace(verdict.facts, samples=thinned(verdict.facts.samples, most))
        text = msgspec.json.encode(replace(verdict, facts=facts))
    if len(text) > LONGEST_BYTES:
        facts = verdict.facts
        facts = replace(
            facts,
            samples=thinned(facts.samples, 1),
            why=facts.why[:_TEXT],
            notes=tuple(note[:_TEXT] for note in facts.notes),
            spans=tuple(replace(span, why=span.why[:_TEXT]) for span in facts.spans),
        )
        text = msgspec.json.encode(replace(verdict, facts=facts))
    return text
