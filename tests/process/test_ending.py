"""How a process ended, in words."""

from __future__ import annotations

import pytest

from trunkline.process.ending import ended


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was ended by SIGKILL"),
        (-250, "was ended by signal 250"),
    ],
)
def test_ends_are_told_in_words(code: int, text: str) -> None:
    """A signal has its name, an exit code its number."""
    assert ended(code) == text
