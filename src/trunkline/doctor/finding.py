"""A check's outcome, and what all of them mean together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

State = Literal["ok", "warning", "error", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        check: its name; docs/tuning.md has a section of this name.
        found: what was read, with what is wanted.
        do: what to do; empty when there is nothing to do.
    """

    check: str
    state: State
    found: str
    do: str = ""


def exit_code(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """1 when something is not ready, else 0; `strict` lets warnings count too."""
    bad = ("error", "warning") if strict else ("error",)
    return int(any(finding.state in bad for finding in findings))


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, do: str) -> Finding:
    """It works, until something goes wrong or grows."""
    return Finding(check, "warning", found, do)


def error(check: str, found: str, do: str) -> Finding:
    """It does not hold what is wanted."""
    return Finding(check, "error", found, do)


def unknown(check: str, why: str, do: str = "") -> Finding:
    """It could not be read."""
    return Finding(check, "unknown", why, do)
