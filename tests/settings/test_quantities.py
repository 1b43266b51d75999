"""Durations and sizes with their units."""

from __future__ import annotations

import pytest

from trunkline.settings.quantities import duration, go_duration, go_seconds, milliseconds, seconds, size, unit_of


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("500ms", 0.5), ("30s", 30), ("10m", 600), ("10min", 600), ("1h", 3600), ("1m30s", 90), ("1.5 h", 5400),
        (" 2S ", 2), ("1d", 86400), ("", None), ("fast", None), ("-5s", None), ("5", None), ("5s5", None),
        ("s", None), ("5 s!", None), ("1e3s", None),
    ],
)  # fmt: skip
def test_lengths_of_time(text: str, length: float | None):
    """Numbers with units, several in a row; nothing is guessed."""
    assert seconds(text) == length


@pytest.mark.parametrize(
    ("text", "value"), [("1m30s", 90.0), ("250ms", 0.25), ("7", 7.0), ("5 s", None), ("", None), ("s", None)]
)
def test_durations_of_traefik(text: str, value: float | None) -> None:
    """Durations as Traefik reads them."""
    assert go_seconds(text) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512b", 512), ("16KiB", 16_384), ("2 gb", 2e9), ("1.5MiB", 1_572_864), ("16", None), ("3 m", None),
     ("1e3kb", None), ("9" * 400 + "kb", None)],
)  # fmt: skip
def test_sizes(text: str, expected: float | None) -> None:
    """Decimal and binary units, in any case; nothing is guessed, nothing is endless."""
    assert size(text) == expected


def test_the_end_of_a_name_is_the_unit() -> None:
    """Milliseconds, seconds and bytes; a rate is a plain number."""
    assert [unit_of(name) for name in ("rate_per_s", "port")] == [None, None]
    units = {name: unit_of(name) for name in ("drain_ms", "keep_s", "max_bytes")}
    assert [unit.read("1s") for unit in units.values() if unit] == [1000, 1, None]
    assert milliseconds("1m30s") == 90_000


@pytest.mark.parametrize(
    ("given", "prometheus", "traefik"),
    [(0, "0s", "0s"), (1500, "1500ms", "1500ms"), (90_000, "90s", "90s"), (120_000, "2m", "120s"),
     (14_400_000, "4h", "14400s")],
)  # fmt: skip
def test_written_durations(given: int, prometheus: str, traefik: str) -> None:
    """Prometheus is given the largest unit that loses nothing, Traefik seconds or milliseconds."""
    assert (duration(given), go_duration(given)) == (prometheus, traefik)
    assert go_seconds(traefik) == given / 1000
