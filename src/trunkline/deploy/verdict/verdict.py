"""Whether a deploy proved what it was to prove: its facts, the thresholds, and one line that says both. Pure.

A deploy passes that ended in `done` and of which every threshold holds. What the witnesses saw and what the nodes
counted of everybody else stand apart in every text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec

from trunkline.deploy.verdict.facts import ClientFacts, DeployFacts, RateFacts, WitnessFacts
from trunkline.deploy.verdict.thresholds import judge
from trunkline.load.model.report import Judged
from trunkline.load.output.formatting import count, counted, significant
from trunkline.load.scenario.comparison import Threshold
from trunkline.version import __version__

FORMAT: Final = 1

UNKNOWN: Final = "unknown"

Result = Literal["passed", "failed", "rolled back", "refused", "unfinished"]


class DeployVerdict(msgspec.Struct, frozen=True):
    """The verdict, as it is kept and as `--json` writes it.

    Attributes:
        tool: the release that judged.
        passed: it ended in `done` and every threshold holds.
        words: all of it in one line.
    """

    format: Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]
    tool: str
    result: Result
    passed: bool
    words: str
    thresholds: tuple[Judged, ...]
    facts: DeployFacts


def make_verdict(facts: DeployFacts, own: Iterable[Threshold] = ()) -> DeployVerdict:
    """Judge a deploy by the default thresholds and the user's own."""
    judged = judge(facts, own)
    result = _result(facts, judged)
    return DeployVerdict(FORMAT, __version__, result, result == "passed", words(facts), judged, facts)


def encode(verdict: DeployVerdict) -> bytes:
    """The verdict as JSON text, indented."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=1)


class _Head(msgspec.Struct):
    format: int


def decode(text: bytes) -> DeployVerdict:
    """A verdict from JSON text; raises msgspec.ValidationError or DecodeError when it is none."""
    # The number first: in a newer verdict any other field may differ, and the error would name that field.
    number = msgspec.json.decode(text, type=_Head).format
    if number > FORMAT:
        raise msgspec.ValidationError(f"format {number} is of a newer release, this one reads up to {FORMAT}")
    return msgspec.json.decode(text, type=DeployVerdict)


def words(facts: DeployFacts) -> str:
    """What was measured, in one line."""
    parts = (*witness_words(facts.witnesses), *client_words(facts.clients), rate_words(facts.rates))
    return "; ".join(part for part in parts if part)


def witness_words(witnesses: WitnessFacts | None) -> tuple[str, ...]:
    """What the witnesses saw."""
    if witnesses is None:
        return ("no witnesses",)
    said = [f"lost {count(witnesses.lost)} of {count(witnesses.expected)} to {count(witnesses.count)} witnesses"]
    if witnesses.duplicated:
        said.append(f"{count(witnesses.duplicated)} came twice to them")
    if witnesses.gaps:
        said.append(f"told of a gap {counted(witnesses.gaps, 'time')}")
    if witnesses.reordered:
        said.append(f"{count(witnesses.reordered)} came to them behind later ones")
    if witnesses.absent:
        said.append(f"{counted(witnesses.absent, 'witness', 'witnesses')} did not come back")
    return tuple(said)


def client_words(clients: ClientFacts) -> tuple[str, ...]:
    """What the nodes counted of everybody else."""
    asked = f"{counted(clients.asked, 'client')} asked to move"
    if not clients.asked:
        said = ["no client was asked to move"]
    elif clients.returned is None:
        said = [f"{asked}, whether they came back is {UNKNOWN}"]
    else:
        said = [f"{count(clients.returned)} of {count(clients.asked)} moved clients came back"]
    if clients.recovered is None:
        said.append(f"recovery is {UNKNOWN}")
    else:
        said.append(f"{counted(clients.recovered, 'channel')} recovered")
    said.append(f"{UNKNOWN if clients.gaps is None else count(clients.gaps)} told of a gap")
    said.append(f"{count(clients.forced)} forced")
    if clients.away_s:
        quantiles = ((name, clients.away_s.get(name)) for name in ("p50", "p99"))
        said.append("away " + ", ".join(f"{name} {significant(s)} s" for name, s in quantiles if s is not None))
    return tuple(said)


def rate_words(rates: RateFacts) -> str:
    """Reconnects beside what was accepted."""
    if rates.peak_per_s is None:
        return f"peak of reconnects {UNKNOWN}"
    if not rates.peak_per_s:
        return ""
    if rates.accepts_from == "unknown":
        return f"peak {significant(rates.peak_per_s)}/s, of a limit that is {UNKNOWN}"
    return f"peak {significant(rates.peak_per_s)}/s of {significant(rates.accepts_per_s)}/s {rates.accepts_from}"


def _result(facts: DeployFacts, judged: Iterable[Judged]) -> Result:
    match facts.ended:
        case "done":
            return "passed" if all(each.passed for each in judged) else "failed"
        case "rolled_back":
            return "rolled back"
        case "refused":
            return "refused"
        case _:
            return "unfinished"
