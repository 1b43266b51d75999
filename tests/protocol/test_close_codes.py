"""The table of close codes is a contract with clients."""

from __future__ import annotations

import pytest

from trunkline.protocol import close_codes


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (1000, False), (1001, True), (1002, False), (1003, False), (1005, False), (1006, True), (1007, False),
        (1008, True), (1009, False), (1011, True), (1012, True), (1013, True), (4000, False),
        (4001, False), (4002, True), (4003, False),
        (4008, True), (3000, False),
    ],
)  # fmt: skip
def test_who_comes_back(code: int, again: bool) -> None:
    """Clients come back after what passes, and not after what they or their user did wrong."""
    assert close_codes.may_reconnect(code) is again


def test_wire_codes() -> None:
    """What a close frame may carry: registered codes but the three that are never sent, and the ranges for all."""
    valid = {code for code in range(70_000) if close_codes.is_valid_on_wire(code)}
    assert valid == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


def test_rows_are_sane() -> None:
    """Every row can be sent, its default reason fits a close frame, and it has a label of its own."""
    for row in close_codes.TABLE:
        assert close_codes.is_valid_on_wire(row.code)
        assert 0 < len(row.reason.encode()) <= 123
        assert close_codes.label(row.code, row.reason) != "other"
    assert len({close_codes.label(row.code, row.reason) for row in close_codes.TABLE}) == len(close_codes.TABLE)


def test_labels_are_few() -> None:
    """Codes that applications and clients make up share one label, so that series stay few."""
    assert {close_codes.label(code) for code in (0, 999, 3000, 4999, 65535)} == {"other"}
    assert close_codes.label(1008) == "policy"
    assert close_codes.label(1008, "client too slow") == "too_slow"
    assert (close_codes.label(close_codes.ABNORMAL), close_codes.label(close_codes.NO_STATUS)) == (
        "abnormal",
        "no_status",
    )
    assert len({close_codes.label(code) for code in range(70_000)}) < 20
