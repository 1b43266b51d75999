"""A moment as text, the one way in which logs, documents and reports of Trunkline write it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 has it, in UTC with milliseconds: `2026-01-31T12:00:00.250Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
