"""Shows results on the terminal and keeps them in RESULTS.md, a section a benchmark."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path

from bench.rows import Options, Result, Row
from bench.servers import HERE, versions

RESULTS = HERE / "RESULTS.md"
_HEAD = """# Benchmark results

Made by `make bench ARGS=--write` (or `python -m bench [names] --write`); the last run of each benchmark is kept.

- CPU figures are user and system time of the **server process**, divided by what it did. Compare within a line: both
  figures are from the same run, each the median of rounds in turn (A B A B ...). The spread is that of the ratios of
  single rounds.
- A ratio is ours divided by the peer's; below 1 ours needs less. Lines where ours misses its target or loses are kept.
- The load comes from another process over loopback. Peers' programs are in `bench/peers/`.
"""


def number(value: float | None) -> str:
    """A figure with about three digits."""
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    spread = f" ({row.spread[0]:.2f} to {row.spread[1]:.2f})" if row.spread else ""
    return f"{row.ratio:.2f}{spread}"


def _verdict(row: Row) -> str:
    return "" if row.target is None else f"<= {row.target:g} {'met' if row.met else 'MISSED'}"


def show(name: str, result: Result) -> None:
    """Print one benchmark's lines."""
    print(f"\n{name}")
    for row in result.rows:
        against = f"  {row.peer} {number(row.theirs)}  ratio {_ratio(row)}" if row.peer else ""
        note = f"  [{row.note}]" if row.note else ""
        print(f"  {row.what}: {number(row.ours)} {row.unit}{against}  {_verdict(row)}{note}".rstrip())
    for note in result.notes:
        print(f"  - {note}")


def section(name: str, title: str, result: Result, options: Options) -> str:
    """One benchmark as Markdown."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    rounds = f"{options.runs} rounds" + (", quick" if options.quick else "")
    found = ", ".join(f"{what} {version}" for what, version in versions().items())
    lines = [
        f"## {name}", "", title, "",
        f"{today}, {rounds}; {machine()}; {found}.",
        "", "| what | ours | unit | peer | theirs | ratio (spread) | target |", "|---|---:|---|---|---:|---:|---|",
    ]  # fmt: skip
    for row in result.rows:
        what = f"{row.what} ({row.note})" if row.note else row.what
        cells = (what, number(row.ours), row.unit, row.peer, number(row.theirs), _ratio(row), _verdict(row))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {note}" for note in result.notes), *([""] if result.notes else [])]
    return "\n".join(lines).rstrip() + "\n"


def machine() -> str:
    """This machine in a few words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        model = found[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{cores} cores of {model}, {system}, {platform.python_implementation()} {platform.python_version()}"


def write(sections: dict[str, str], order: list[str], path: Path = RESULTS) -> None:
    """Put these sections in place of those of the same names, and keep the others."""
    kept: dict[str, str] = {}
    if path.exists():
        for part in re.split(r"^(?=## )", path.read_text(), flags=re.MULTILINE)[1:]:
            kept[part[3 : part.index("\n")].strip()] = part.rstrip() + "\n"
    kept |= sections
    named = [name for name in order if name in kept]
    path.write_text(_HEAD + "".join(f"\n{kept[name]}" for name in named))
