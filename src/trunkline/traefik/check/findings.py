"""The mistakes that can be found: their texts are in `findings.toml`."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Literal

import msgspec

Severity = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True):
    """A mistake.

    Attributes:
        file: the file as it was named.
        line: its line, from 1; 0 for the file as a whole.
        severity: `error`: it does not work or is unsafe; `warning`: it may be meant so.
    """

    file: str
    line: int
    rule: str
    message: str
    instead: str
    severity: Severity = "error"


class _Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: str
    instead: str
    severity: Severity = "error"


@functools.cache
def _texts() -> dict[str, _Text]:
    text = resources.files("trunkline.traefik.check").joinpath("findings.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, _Text])


def finding(rule: str, file: str, line: int, severity: Severity | None = None, **values: object) -> Finding:
    """A finding of a rule of `findings.toml`; `values` are what its texts name in braces."""
    text = _texts()[rule]
    message, instead = text.message.format(**values), text.instead.format(**values)
    return Finding(file, line, rule, message, instead, severity or text.severity)
