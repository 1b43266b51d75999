"""Series in Prometheus' text format, version 0.0.4. Pure.

Byte for byte what prometheus_client's `generate_latest` writes, which a test compares. That library brings a WSGI
server and ssl into every process that imports it: 4 MB for some fifty lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from trunkline.metrics.series import Kind

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_EXPONENT_FROM: Final = 7
"""Digits before the point from which Go writes a number with an exponent; Python does so from 17."""

_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Sample(NamedTuple):
    """One line: the name with its suffix, labels and their values, and the number."""

    name: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """A series with all its samples; `name` is the one under `# TYPE`, with a counter's `_total`."""

    name: str
    kind: Kind
    help: str
    samples: list[Sample]


def render(families: Iterable[Family]) -> bytes:
    """The body of an answer to a scrape."""
    lines: list[str] = []
    for name, kind, help_text, samples in families:
        lines.append(f"# HELP {name} {help_text.translate(_HELP_ESCAPES)}\n# TYPE {name} {kind}\n")
        lines.extend(map(_line, samples))
    return "".join(lines).encode()


def _line(sample: Sample) -> str:
    name, labels, value = sample
    if not labels:
        return f"{name} {number(value)}\n"
    pairs = ",".join([f'{label}="{labels[label].translate(_LABEL_ESCAPES)}"' for label in sorted(labels)])
    return f"{name}{{{pairs}}} {number(value)}\n"


def number(value: float) -> str:
    """A number as Go writes it."""
    value = float(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    text = repr(value)
    point = text.find(".")
    if value > 0 and point >= _EXPONENT_FROM:
        digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
        return f"{digits}e+{point - 1:02d}"
    return text
