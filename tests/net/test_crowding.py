from __future__ import annotations

from trunkline.net.crowding import QUIET_S, Crowding


def test_one_line_for_a_flood() -> None:
    """Of drops that follow each other only the first is news, and one after a quiet time is news again."""
    crowding = Crowding()
    assert [crowding.is_news(now) for now in (0.0, 0.1, QUIET_S, 2 * QUIET_S)] == [True, False, False, False]
    assert crowding.is_news(3 * QUIET_S + 0.1)
