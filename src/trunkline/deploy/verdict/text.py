"""The verdict and the history as plain text, for a terminal and for a ticket. Pure.

Rules: no line is longer than `WIDTH` unless one word is, or a node wrote it; what failed comes first; witnesses and
everybody else have paragraphs of their own; what was not measured is said to be unknown.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final

from trunkline.deploy.verdict.facts import ClientFacts, DeployFacts, WitnessFacts
from trunkline.deploy.verdict.verdict import UNKNOWN, DeployVerdict, rate_words
from trunkline.load.output.formatting import (
    count,
    counted,
    fit,
    marks,
    milliseconds,
    per_second,
    plain,
    seconds,
    significant,
)

WIDTH: Final = 100
_LABEL: Final = 12


def text(verdict: DeployVerdict, encoding: str = "utf-8") -> str:
    """The verdict as lines, with marks that the encoding of the output has characters for."""
    facts = verdict.facts
    held, failed = marks(encoding)
    version = f", version {facts.version}" if facts.version else ""
    lines = [
        f"deploy {facts.id}: {facts.from_colour or 'nothing'} -> {facts.to_colour}{version}: {verdict.result}",
        *_part("began", f"{facts.started_at}, lasted {seconds(facts.lasted_s)}"),
        *_part("why", facts.why),
    ]
    for note in facts.notes:
        lines += _part("NOTE", note)
    for judged in sorted(verdict.thresholds, key=lambda each: each.passed):
        mark = held if judged.passed else failed
        lines.append(f"{'':{_LABEL}}{mark} {judged.threshold:<20}  {judged.shown}")
    lines += _part("witnesses", _witnesses(facts.witnesses))
    lines += _part("clients", _clients(facts.clients))
    lines += _part("reconnects", _reconnects(facts))
    lines += _part("states", ", ".join(f"{span.state} {seconds(span.to_s - span.from_s)}" for span in facts.spans))
    for node, last in facts.last_lines.items():
        lines += [f"{node} wrote last:", *(f"  {line}" for line in last)]
    return "".join(f"{fit(plain(line), encoding)}\n" for line in lines)


def history_text(verdicts: Iterable[DeployVerdict]) -> str:
    """One deploy a line, as they come."""
    rows = [("id", "began", "colours", "version", "lasted", "result", "in one line")]
    rows += [
        (
            each.facts.id,
            each.facts.started_at,
            f"{each.facts.from_colour or '-'} -> {each.facts.to_colour}",
            each.facts.version or "-",
            seconds(each.facts.lasted_s),
            each.result,
            each.words if each.facts.ended == "done" else each.facts.why,
        )
        for each in verdicts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = (
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]).rstrip()
        for row in rows
    )
    return "".join(f"{plain(line)}\n" for line in lines)


def _witnesses(facts: WitnessFacts | None) -> str:
    if facts is None:
        return f"none: whether a message was lost is {UNKNOWN}"
    said = (
        f"{count(facts.count)}, of which {count(facts.moved)} moved; lost {count(facts.lost)} of "
        f"{count(facts.expected)} deliveries, {count(facts.duplicated)} came twice, {count(facts.reordered)} behind "
        f"later ones, {counted(facts.gaps, 'gap')}, {count(facts.absent)} did not come back; of their publications "
        f"{count(facts.published)} were acknowledged, {count(facts.refused)} refused, {count(facts.unanswered)} not "
        "answered"
    )
    away = ", ".join(f"{name} {milliseconds(ms)}" for name, ms in facts.away_ms.items())
    return said + (f"; away {away}" if away else "") + (f". First: {facts.why}" if facts.why else "")


def _clients(facts: ClientFacts) -> str:
    def known(number: int | None) -> str:
        return UNKNOWN if number is None else count(number)

    said = (
        f"{count(facts.at_switch)} at the switch, {count(facts.asked)} asked to move, {known(facts.returned)} came "
        f"back within 60 s, {known(facts.never_back)} did not "
        f"({significant(facts.usual_departures) if facts.never_back is not None else UNKNOWN} would have left anyway); "
        f"{known(facts.recovered)} channels recovered, {known(facts.gaps)} gaps, {count(facts.forced)} forced"
    )
    away = ", ".join(f"{name} {milliseconds(1000 * s)}" for name, s in facts.away_s.items())
    if facts.refused is None:
        refused = UNKNOWN
    else:
        refused = ", ".join(f"{label} {count(number)}" for label, number in facts.refused.items() if number)
    return said + (f"; away {away}" if away else "") + (f"; refused: {refused}" if refused else "; none refused")


def _reconnects(facts: DeployFacts) -> str:
    chosen = facts.rates.chosen_per_s
    said = [rate_words(facts.rates)]
    if facts.moving_s:
        said.append(f"moved for {seconds(facts.moving_s)}, of which waves waited {seconds(facts.waited_s)}")
    if chosen:
        said.append(f"asked at {per_second(chosen)}")
    return ", ".join(part for part in said if part)


def _part(label: str, words: str) -> list[str]:
    if not words:
        return []
    return textwrap.wrap(
        words, WIDTH, initial_indent=label.ljust(_LABEL), subsequent_indent=" " * _LABEL, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
