"""The session that a handshake brings along."""

from __future__ import annotations

import pytest

from trunkline.protocol.sessions import session_in

GOOD = "abcDEF-123_456789xyz"


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (f"/ws?session={GOOD}", GOOD),
        (f"/ws?a=1&session={GOOD}&token=x", GOOD),
        (f"/ws?session=first0123456789ab&session={GOOD}", GOOD),
        (f"/ws?session={GOOD.replace('-', '%2D')}", GOOD),
        ("/ws", None),
        ("/ws?session=", None),
        ("/ws?session=short", None),
        (f"/ws?session={'x' * 65}", None),
        ("/ws?session=0123456789abcde%C3%A9", None),
        ("/ws?session=0123456789abcdef%0A", None),
        (f"/session={GOOD}", None),
        (f"/ws?nosession={GOOD}", None),
        (f"/ws?{'a&' * 100}session={GOOD}", None),
    ],
)
def test_session_in_a_target(target: str, found: str | None) -> None:
    """Only a well-formed one, and the last of several."""
    assert session_in(target) == found
