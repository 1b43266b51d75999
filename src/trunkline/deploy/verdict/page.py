"""The verdict as one HTML file that needs no network: what was proved, the numbers, and plots over time. Pure.

It is made of the pieces of the load tester's report (`load/output/html.py`), which make all texts harmless.
"""

from __future__ import annotations

from trunkline.deploy.verdict.facts import DeployFacts
from trunkline.deploy.verdict.plots import plots
from trunkline.deploy.verdict.thresholds import never_back_percent, peak_percent
from trunkline.deploy.verdict.verdict import UNKNOWN, DeployVerdict
from trunkline.load.output.formatting import NONE, clock, count, counted, milliseconds, per_second, seconds, significant
from trunkline.load.output.html import code, document, free, mark, over_time, section, table, text, tile, unbroken
from trunkline.load.output.plots import Plots


def page(verdict: DeployVerdict) -> bytes:
    """The verdict as a self-contained HTML file, in UTF-8."""
    facts = verdict.facts
    drawn = plots(facts)
    title = f"{facts.from_colour or 'nothing'} to {facts.to_colour}: {verdict.result} – trunkline deploy"
    return document(title, _body(verdict, drawn), drawn)


def _body(verdict: DeployVerdict, drawn: Plots) -> str:
    facts = verdict.facts
    parts = (
        _head(verdict), "<main>", _notes(facts), _thresholds(verdict), _tiles(facts), over_time(drawn), _pair(facts),
        _states(facts), _last_lines(facts), "</main>",
    )  # fmt: skip
    return "\n".join(part for part in parts if part)


def _head(verdict: DeployVerdict) -> str:
    facts = verdict.facts
    failed = sum(not judged.passed for judged in verdict.thresholds)
    why = f" {failed} of {len(verdict.thresholds)} thresholds did not hold." if failed else ""
    ended = f"{facts.ended}: {facts.why}" if facts.why else facts.ended
    listed = (
        ("Colours", f"{facts.from_colour or 'nothing'} → {facts.to_colour}"),
        ("Version", facts.version or NONE),
        ("Started", facts.started_at),
        ("Lasted", f"{seconds(facts.lasted_s)}, of which clients were moved for {seconds(facts.moving_s)}"),
        ("Ended", ended),
        ("Made by", f"trunkline {verdict.tool}, deploy {facts.id}"),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in listed)
    look = "passed" if verdict.passed else "failed"
    return (
        f'<header class="top"><p class="verdict {look}"><strong>{text(verdict.result.capitalize())}.</strong>{why}</p>'
        f'<h1><span>Deploy of {text(facts.to_colour)}</span></h1><p class="about">{text(verdict.words)}</p>'
        f'<dl class="facts">{items}</dl></header>'
    )


def _notes(facts: DeployFacts) -> str:
    if not facts.notes:
        return ""
    listed = "".join(f"<li>{text(note)}</li>" for note in facts.notes)
    return f'<section class="warnings"><h2>What happened</h2><ul>{listed}</ul></section>'


def _last_lines(facts: DeployFacts) -> str:
    shown = "".join(
        f"<h3>{text(node)}</h3><pre>{text(chr(10).join(last))}</pre>" for node, last in facts.last_lines.items()
    )
    return section("What the new nodes wrote last", shown) if shown else ""


def _thresholds(verdict: DeployVerdict) -> str:
    rows = [
        (
            code(judged.threshold) + (' <span class="soft">default</span>' if judged.default else ""),
            text(judged.shown),
            NONE if judged.value is None and judged.passed else mark(judged.passed, "passed", "failed"),
        )
        for judged in sorted(verdict.thresholds, key=lambda judged: judged.passed)
    ]
    return section("Thresholds", table(("threshold", "#measured", "result"), rows, "None was set."))


def _tiles(facts: DeployFacts) -> str:
    witnesses, clients, rates = facts.witnesses, facts.clients, facts.rates
    tiles = []
    if witnesses is None:
        tiles.append(tile("lost to witnesses", UNKNOWN, "there were none"))
    else:
        about = f"of {count(witnesses.expected)} to {counted(witnesses.count, 'witness', 'witnesses')}"
        tiles.append(tile("lost to witnesses", count(witnesses.lost), about, bad=witnesses.lost > 0))
    moved = UNKNOWN if clients.returned is None else count(clients.returned)
    tiles.append(tile("clients came back", moved, f"of {count(clients.asked)} asked to move"))
    gaps = UNKNOWN if clients.gaps is None else count(clients.gaps)
    tiles.append(tile("told of a gap", gaps, "of everybody else", bad=bool(clients.gaps)))
    tiles.append(tile("forced", count(clients.forced), "cut at the deadline", bad=clients.forced > 0))
    p99, p50 = clients.away_s.get("p99"), clients.away_s.get("p50")
    if p99 is not None:
        about = "" if p50 is None else unbroken(f"p50 {milliseconds(1000 * p50)}")
        tiles.append(tile("away p99", unbroken(milliseconds(1000 * p99)), about))
    limit = UNKNOWN if rates.accepts_from == "unknown" else f"{per_second(rates.accepts_per_s)} {rates.accepts_from}"
    peak = UNKNOWN if rates.peak_per_s is None else per_second(rates.peak_per_s)
    tiles.append(tile("peak of reconnects", peak, unbroken(f"of {limit}")))
    tiles.append(tile("waited", unbroken(seconds(facts.waited_s)), f"of {unbroken(seconds(facts.moving_s))} moving"))
    return f'<section aria-label="Key numbers"><ul class="tiles">{"".join(tiles)}</ul></section>'


def _pair(facts: DeployFacts) -> str:
    return (
        '<div class="pair">'
        + section("Witnesses", _witnesses(facts))
        + section("Everybody else", _clients(facts))
        + "</div>"
    )


def _witnesses(facts: DeployFacts) -> str:
    witnesses = facts.witnesses
    if witnesses is None:
        return f'<p class="none">There were none: whether a message was lost is {UNKNOWN}.</p>'
    rows = [
        ("sessions", count(witnesses.count)),
        ("of them moved", count(witnesses.moved)),
        ("publications acknowledged", count(witnesses.published)),
        ("deliveries owed", count(witnesses.expected)),
        ("lost", count(witnesses.lost)),
        ("came twice", count(witnesses.duplicated)),
        ("came behind later ones", count(witnesses.reordered)),
        ("gaps told, and recoveries refused", count(witnesses.gaps)),
        ("did not come back", count(witnesses.absent)),
        ("publications refused", count(witnesses.refused)),
        ("publications not answered", count(witnesses.unanswered)),
        *((f"away {text(name)}", unbroken(milliseconds(ms))) for name, ms in witnesses.away_ms.items()),
    ]
    about = f'<p class="hint">First: {free(witnesses.why)}</p>' if witnesses.why else ""
    return table(("they account for every message", "#"), rows, "") + about


def _clients(facts: DeployFacts) -> str:
    def known(number: int | None) -> str:
        return UNKNOWN if number is None else count(number)

    clients, rates = facts.clients, facts.rates
    share, peak = never_back_percent(clients), peak_percent(facts)
    rows = [
        ("on the old colour at the switch", count(clients.at_switch)),
        ("asked to move", count(clients.asked)),
        ("came back within 60 s", known(clients.returned)),
        ("never back", known(clients.never_back)),
        (
            "would have left anyway",
            significant(clients.usual_departures) if clients.never_back is not None else UNKNOWN,
        ),
        ("never back beyond those", UNKNOWN if share is None else unbroken(f"{significant(share)} %")),
        ("channels recovered in full", known(clients.recovered)),
        ("told of a gap", known(clients.gaps)),
        ("forced at the deadline", count(clients.forced)),
        *((f"away {text(name)}", unbroken(milliseconds(1000 * s))) for name, s in clients.away_s.items()),
        ("asked at", per_second(rates.chosen_per_s)),
        ("peak of the accept limit", UNKNOWN if peak is None else unbroken(f"{significant(peak)} %")),
        *((f"refused: {text(label)}", count(number)) for label, number in (clients.refused or {}).items()),
        *((("refused", UNKNOWN),) if clients.refused is None else ()),
    ]
    return table(("as the nodes count them, witnesses among them", "#"), rows, "")


def _states(facts: DeployFacts) -> str:
    rows = [
        (code(span.state), clock(span.from_s), unbroken(seconds(span.to_s - span.from_s)), free(span.why))
        for span in facts.spans
    ]
    return section("States", table(("state", "#from", "#lasted", "left because"), rows, "None was recorded."))
