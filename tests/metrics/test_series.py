"""Counters with labels stand at 0 under every word that the code can say, from the first scrape on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import get_args

import pytest

from tests.support import ROOT
from trunkline.metrics import exposition
from trunkline.metrics.series import BALANCER_SERIES, BY_NAME, SERIES, Series
from trunkline.placement.states import OUT, State
from trunkline.protocol import close_codes, wire
from trunkline.server.channels import recovery
from trunkline.server.node.capacity import ShedReason

SOURCES = ROOT / "src" / "trunkline"


def calls(*rooms: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in these rooms, with the name of what is called."""
    for room in rooms:
        for path in (SOURCES / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield ast.unparse(node.func), node


def texts(node: ast.AST) -> set[str]:
    """The literal words in an expression."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def counted(counter: str, *rooms: str) -> set[str]:
    """The literal words under which `meter.<counter>.add(...)` counts."""
    return set().union(
        *(
            texts(call.args[0])
            for name, call in calls(*rooms)
            if name.endswith((f".{counter}.add", f"._{counter}.add")) and call.args
        )
    )


def words(name: str) -> set[str]:
    """The declared words of a series with one label."""
    (only,) = BY_NAME[name].values
    return set(only)


def test_refused_handshakes() -> None:
    """Each label of a `Refused` in the server, what its HTTP connections report as failed, and what is shed."""
    said = counted("connections_failed", "server") | set(get_args(ShedReason))
    for name, call in calls("server", "websocket", "http1"):
        if name == "Refused":
            said |= set().union(*(texts(given.value) for given in call.keywords if given.arg == "label"))
        elif name.endswith("_port.failed"):
            said |= texts(call.args[0])
    assert said == words("ws_connections_failed_total")
    assert words("ws_capacity_rejections_total") == set(get_args(ShedReason))


def test_gaps_and_replays() -> None:
    """The reasons of a gap and the results of a replay."""
    said = counted("publications_dropped", "server")
    for name, call in calls("server"):
        if name.endswith("._announce_gap"):
            said |= texts(call.args[-1])
    assert said == words("ws_publications_dropped_total")
    assert words("ws_replay_requests_total") == counted("replay_requests", "server") | set(get_args(recovery.Outcome))


def test_error_codes() -> None:
    """Every constant of the wire that names an error."""
    named = {value for name, value in vars(wire).items() if name.isupper() and isinstance(value, str) and value == name}
    assert named == set(wire.ERROR_CODES) == words("ws_errors_total")


@pytest.mark.parametrize("code", [*range(1000, 1016), 3000, 4001, 4002, 4003, 4008, 4999])
def test_close_codes(code: int) -> None:
    """What a close is counted under is among the declared words."""
    assert close_codes.label(code, "client too slow") in BY_NAME["ws_disconnects_total"].values[0]
    assert close_codes.label(code) in BY_NAME["ws_disconnects_total"].values[0]


def test_clients_turned_away() -> None:
    """The balancer's refusals, wherever they are said."""
    said = counted("refusals", "balancer")
    for name, call in calls("balancer", "placement"):
        if name.endswith(("_refuse", ".refuse", "Refusal")) and len(call.args) > 1:
            said |= texts(call.args[1])
        if name.endswith("pending.refused"):
            said |= texts(call.args[0])
    said |= {"head_timeout", "body_too_long", "head_too_long", "bad_request"}
    assert said == words("ws_balancer_refusals_total")
    assert words("ws_balancer_reports_total") == counted("reports", "balancer")
    assert words("ws_balancer_steering_answers_total") == counted("answers", "traefik")
    assert set(OUT) < set(get_args(State))


@pytest.mark.parametrize(
    "series", [each for each in (*SERIES, *BALANCER_SERIES) if each.values], ids=lambda it: it.name
)
def test_zero_from_the_start(series: Series) -> None:
    """A scrape before the first event has a 0 for each word; what is counted stands beside them, other words too."""
    counter = exposition.Labelled()
    (family,) = exposition.exposition([series], {series.name: counter})
    assert len(family.samples) >= len(series.values[0])
    assert {sample.value for sample in family.samples} == {0.0}
    assert all(set(sample.labels) == set(series.labels) for sample in family.samples)
    first = tuple(each[0] for each in series.values)
    counter.add(*first, times=3)
    counter.add(*("an_application_s" for _ in series.values))
    (later,) = exposition.exposition([series], {series.name: counter})
    found = {tuple(sample.labels.values()): sample.value for sample in later.samples}
    assert found[first] == 3.0
    assert sum(found.values()) == 4.0
    assert len(later.samples) == len(family.samples) + 1
