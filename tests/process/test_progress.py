"""Hanging and starvation are told apart, and a start that goes on is waited for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from trunkline.process.progress import QUIET_S, Look, Silence, Start, chance_s

START = Look(100.0, 5.0, 2.0, 50.0)


@pytest.mark.parametrize(
    ("why", "passed", "ran", "waited", "stalled", "late", "expected"),
    [
        ("idle on a quiet machine", 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        ("a busy loop with a processor of its own", 1.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        ("a busy loop beside others", 1.0, 0.3, 0.7, 0.9, 0.0, 0.3),
        ("stopped while the machine is busy", 1.0, 0.0, 0.0, 1.0, 0.0, 1.0),
        ("starved", 1.0, 0.01, 0.99, 1.0, 0.0, 0.01),
        ("we were late ourselves", 4.0, 0.0, 0.0, 0.0, 3.0, 1.0),
        ("both starved, in the same seconds", 4.0, 0.5, 2.0, 0.0, 3.0, 1.0),
        ("counted more than passed", 1.0, 0.0, 1.2, 0.0, 0.0, 0.0),
        ("woken a little early", 1.0, 0.0, 0.0, 0.0, -0.001, 1.0),
        ("not counted: idle on a quiet machine", 1.0, 0.0, None, 0.0, 0.0, 1.0),
        ("not counted: the machine is stalled", 1.0, 0.1, None, 0.8, 0.0, 0.2),
        ("not counted: it ran, others were stalled", 1.0, 0.9, None, 1.0, 0.0, 0.9),
    ],
)
def test_time_in_which_it_could_have_spoken(
    why: str, passed: float, ran: float, waited: float | None, stalled: float, late: float, expected: float
) -> None:
    """Waiting for a processor, here or there, is no chance to speak; running and sleeping are."""
    before = START if waited is not None else START._replace(waited_s=None)
    now = Look(
        START.at + passed,
        START.ran_s + ran,
        None if waited is None else 2.0 + waited,
        START.stalled_s + stalled,
    )
    assert chance_s(before, now, late) == pytest.approx(expected), why


def test_silence() -> None:
    """It has more time before its first word; each word begins the count again."""
    silence = Silence(2.0, 5.0)
    assert not any(silence.passed(1.0) for _ in range(5))
    silence.heard()
    assert [silence.passed(1.0) for _ in range(3)] == [False, False, True]
    assert silence.silent_s == 3.0
    silence.heard()
    assert not silence.passed(2.0)


def given_up_at(looks: Iterable[tuple[float, int]]) -> int | None:
    """The number of the look, one a second from the limit on, at which a start is given up."""
    start = Start(30.0, 60.0)
    for second, (ran_s, said) in enumerate(looks):
        if start.gives_up(30.0 + second, ran_s, said):
            return second
    return None


@pytest.mark.parametrize(
    ("why", "looks", "expected"),
    [
        ("nothing moves", [(3.0, 100)] * 20, QUIET_S),
        ("it wakes now and then", [(3.0 + 0.01 * second, 100) for second in range(20)], QUIET_S),
        ("it uses a twentieth of a processor", [(3.0 + 0.05 * second, 100) for second in range(50)], None),
        ("it logs", [(3.0, 100 + second) for second in range(50)], None),
        ("it logs now and then", [(3.0, 100 + second // 4) for second in range(50)], None),
        ("it stops after a while", [(3.0, 100 + min(second, 10)) for second in range(50)], 10 + QUIET_S),
        ("it goes on for ever", [(3.0 + second, second) for second in range(100)], 60),
        ("it began again", [(3.0 if second < 4 else 0.2, 100 + (second == 4)) for second in range(30)], 5 + QUIET_S),
    ],
)
def test_a_start_that_is_late(why: str, looks: list[tuple[float, int]], expected: float | None) -> None:
    """Use of the processor and log lines are progress, for a limited time."""
    assert given_up_at(looks) == expected, why
