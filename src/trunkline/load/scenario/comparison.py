"""A condition as it is written, `<metric><comparison><number><unit>`, and how a measured value stands beside it. Pure.

Which metrics there are, and in what unit each is, is for those who judge by it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from trunkline.errors import SettingsError
from trunkline.load.output.formatting import milliseconds, significant

Comparison = Literal["<", "<=", ">", ">=", "=="]
COMPARISONS: Final[dict[Comparison, Callable[[float, float], bool]]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
}  # fmt: skip

Unit = Literal["us", "ms", "s", "%", ""]
PER_MS: Final[dict[str, float]] = {"us": 1000.0, "ms": 1.0, "s": 0.001}

MAX_LENGTH: Final = 200
NOTHING: Final = "nothing measured"

_FORM: Final = re.compile(r"([^<>=!]*)([<>=!]+)([^<>=!]*)")
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?([^\d\s.]*)", re.ASCII)


class Threshold(msgspec.Struct, frozen=True):
    """A parsed threshold; `number` is in `unit`, which is empty for counts and rates."""

    text: str
    metric: str
    comparison: Comparison
    number: float
    unit: Unit
    default: bool = False


class Written(msgspec.Struct, frozen=True):
    """The parts of a condition, as they stand there."""

    text: str
    metric: str
    sign: str
    amount: str

    def comparison(self) -> Comparison:
        """The comparison; raises SettingsError when it is none."""
        found = next((each for each in COMPARISONS if each == self.sign), None)
        if found is None:
            raise refusal(self.text, f"{self.sign} is no comparison; they are {' '.join(COMPARISONS)}")
        return found

    def number(self, example: str) -> tuple[float, str]:
        """The number, and the unit as it is written; raises SettingsError, with an example of what is right."""
        amount = _AMOUNT.fullmatch(self.amount)
        if amount is None:
            raise refusal(self.text, f"{self.amount or 'nothing'} is no number of 0 or more; write {example}")
        return float(amount[1]), amount[2]


def written(text: str, examples: str) -> Written:
    """Take a condition apart; raises SettingsError, with examples, when it has not its form."""
    text = " ".join(text.split())
    form = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if form is None:
        raise refusal(text, f"write <metric><comparison><number><unit>, such as {examples}")
    metric, sign, amount = (part.strip() for part in form.groups())
    return Written(text, metric, sign, amount)


def refusal(text: str, allowed: str, *, nearest: str | None = None) -> SettingsError:
    """What a condition that cannot be judged is refused with."""
    shown = text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"
    return SettingsError("threshold", value=shown, allowed=allowed, nearest=nearest)


def over_defaults(own: Iterable[Threshold], defaults: Iterable[Threshold]) -> list[Threshold]:
    """The default thresholds that no own one replaces, and the own ones."""
    mine = list(own)
    kept = [default for default in defaults if not any(_replaces(each, default) for each in mine)]
    return [*kept, *mine]


def holds(threshold: Threshold, value: float) -> bool:
    """Whether a value, in the threshold's unit, is as it should be."""
    return COMPARISONS[threshold.comparison](value, threshold.number)


def shown(threshold: Threshold, value: float) -> str:
    """A measured value as text, in a way that does not seem to contradict the verdict."""
    text = significant(value)
    if COMPARISONS[threshold.comparison](float(text.replace(",", "")), threshold.number) != holds(threshold, value):
        return f"{value:,.9f}".rstrip("0").rstrip(".") + f" {threshold.unit}".rstrip()
    if threshold.unit in PER_MS:
        return milliseconds(value / PER_MS[threshold.unit])
    return f"{text} {threshold.unit}".rstrip()


def _replaces(own: Threshold, default: Threshold) -> bool:
    """Whether both are of one metric and point the same way; == points both ways."""
    either = own.comparison + default.comparison
    return own.metric == default.metric and ("==" in either or own.comparison[0] == default.comparison[0])
