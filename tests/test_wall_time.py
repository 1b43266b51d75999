"""Nothing that lasts is derived from the wall clock: it is set, by people and by NTP, on one machine and not on others.

Ages, time-outs, rates, leases and up-times use `time.monotonic()`, the loop's time or the time of the bus. Each use of
the wall clock stands here, with the reason why a step of it does no harm.
"""

from __future__ import annotations

import ast

import pytest

from tests.support import ROOT

SOURCES = ROOT / "src" / "trunkline"
WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
SHOWN = "shown to people or written into a message, and compared with nothing"
ALLOWED = {
    "balancer/core.py Balancer.__init__": SHOWN,
    "balancer/core.py Balancer.overview": SHOWN,
    "balancer/event_log.py EventLog.add": SHOWN,
    "balancer/event_log.py EventLog.flush": SHOWN,
    "balancer/rollout/driver.py VersionKeeper._look": SHOWN,
    "balancer/sources/file.py FileSource.run": "compared with a file's time; a step only makes it read again",
    "balancer/traffic/control.py TrafficControl.put": SHOWN,
    "bus/memory.py MemoryBus.__init__": "dates the first publication; monotonic time from there on",
    "bus/nats/bus.py NatsBus.__init__": "stands in until NATS says its own time; monotonic time from there on",
    "deploy/drive/driver.py Driver.__init__": "goes on where it was or later; a step only ends the "
    "keeping of its empty old colour early",
    "deploy/lease/lease.py Lease.write": SHOWN,
    "deploy/run.py run_deploy": SHOWN,
    "fleet/children/part.py FleetPart._run_once": SHOWN,
    "fleet/opening.py open_to": SHOWN,
    "fleet/supervisor.py Fleet.run": "log files are kept for calendar days, by their own times",
    "kubernetes/credentials.py ProgramToken.token": "tokens end by wall time; a 401 replaces one too",
    "load/run.py run_load": SHOWN,
    "logs/configure.py _stamp": SHOWN,
    "logs/configure.py configure": "the date in the names of rotated files, which are kept for calendar days",
    "logs/files.py RotatingFile.__init__": "the date in the names of rotated files, which are kept for calendar days",
    "server/app/stock.py _now_ms": SHOWN,
    "server/connections/clock.py Clock.precise_wall_ms": "a latency, and only while it agrees with the bus's time",
    "server/connections/clock.py Clock.tick": SHOWN,
    "server/http/tokens.py": "RFC 7519 dates tokens by wall time; what is left of one is counted by monotonic time",
    "server/node/state.py NodeState.__init__": SHOWN,
    "settings/reload.py Reload.__call__": SHOWN,
}


class Uses(ast.NodeVisitor):
    """Finds where a module names the wall clock."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int]] = []
        self._within: list[str] = []

    def _enter(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _enter

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """`time.time`, `datetime.now`, also where they are passed on without a call."""
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if node.attr in WALL.get(owner, ()):
            self.found.append((".".join(self._within), node.lineno))
        self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from time import time` would hide the uses."""
        if node.module == "time":
            names = {each.name for each in node.names} & WALL["time"]
            self.found += [(f"import of {name}", node.lineno) for name in names]


def uses(source: str) -> list[tuple[str, int]]:
    """The functions that name the wall clock, with the lines."""
    visitor = Uses()
    visitor.visit(ast.parse(source))
    return visitor.found


def test_every_use_of_the_wall_clock_has_a_reason() -> None:
    """A new one is listed with why a step does no harm, or uses another clock; one that is gone leaves the list."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = str(path.relative_to(SOURCES))
        for where, line in uses(path.read_text()):
            found[f"{name} {where}"] = line
    unlisted = [f"{use} (line {line})" for use, line in found.items() if _entry(use) is None]
    assert unlisted == []
    assert set(ALLOWED) - {_entry(use) for use in found} == set()


def _entry(use: str) -> str | None:
    """The entry that allows a use: that of its function, or of its file."""
    return next((entry for entry in (use, use.partition(" ")[0]) if entry in ALLOWED), None)


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef f(): return time.time()",
        "import time\nclass A:\n    def f(self, wall=time.time_ns): ...",
        "from time import time",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime\nx = datetime.datetime.utcnow()",
        "import datetime\nx = datetime.date.today()",
    ],
)
def test_each_way_to_ask_is_seen(source: str) -> None:
    """By attribute, by import, as a default."""
    assert len(uses(source)) == 1


def test_other_clocks_are_not() -> None:
    """Monotonic time, conversions and the hub's own `now`."""
    assert uses("import time\nx = time.monotonic() + time.perf_counter() + clock.now + loop.time()") == []
