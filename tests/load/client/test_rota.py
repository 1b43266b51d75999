"""Sessions that may send take turns."""

from __future__ import annotations

import random
import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.client.rota import Rota
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import Job
from trunkline.load.model.plan import Scenario, Stage, Target
from trunkline.load.model.tally import Tally

SHARED = Shared(
    Job("abc", Target("ws://x"), Scenario("x", (Stage(0, 1),)), 0, 1, 1), Tally(), time.monotonic, random.Random(1)
)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_those_that_are_in_it_take_turns(changes: list[tuple[bool, int]]) -> None:
    """Whatever came and went before, each session that is left has its turn equally often; the others have none."""
    sessions = [Session(number, SHARED) for number in range(6)]
    rota, present = Rota(), set()
    for joins, number in changes:
        if joins:
            rota.add(sessions[number])
            present.add(number)
        else:
            rota.remove(sessions[number])
            present.discard(number)
    assert len(rota) == len(present)
    turns = [session for _ in range(3 * len(present)) if (session := rota.next()) is not None]
    assert Counter(session.number for session in turns) == dict.fromkeys(present, 3)
    assert (rota.next() is None) == (not present)
