"""Modules that call themselves pure neither wait, nor talk, nor ask the time, nor draw from global random state."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

SOURCES = ROOT / "src" / "trunkline"
FORBIDDEN = frozenset({"asyncio", "socket", "time", "uvloop", "aiohttp", "nats", "secrets", "subprocess", "threading"})


def is_pure(tree: ast.Module) -> bool:
    """Whether the first paragraph of the module's docstring ends with `Pure.`."""
    return (ast.get_docstring(tree) or "").split("\n\n")[0].rstrip().endswith("Pure.")


def faults(tree: ast.Module) -> list[str]:
    """What a pure module may not do, with the line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: imports {each.name}" for each in node.names if root(each.name) in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if root(node.module) in FORBIDDEN:
                found.append(f"{node.lineno}: imports {node.module}")
            elif node.module == "random":
                found += [f"{node.lineno}: random.{each.name}" for each in node.names if each.name != "Random"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked = (node.value.id, node.attr)
            if asked[0] == "random" and asked[1] != "Random":
                found.append(f"{node.lineno}: random.{asked[1]}")
            elif asked[0] in {"datetime", "date"} and asked[1] in {"now", "today", "utcnow"}:
                found.append(f"{node.lineno}: {'.'.join(asked)}")
        elif isinstance(node, ast.Call) and ast.unparse(node) in {"Random()", "random.Random()"}:
            found.append(f"{node.lineno}: an unseeded Random")
    return found


def root(module: str) -> str:
    """The package that a dotted name belongs to."""
    return module.partition(".")[0]


PURE = [path for path in sorted(SOURCES.rglob("*.py")) if is_pure(ast.parse(path.read_text()))]


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(SOURCES)))
def test_a_module_that_calls_itself_pure_is(path: Path) -> None:
    """No import of asyncio, socket or time, no clock, no global random state."""
    assert faults(ast.parse(path.read_text())) == []


def test_most_decisions_are_pure() -> None:
    """The set does not shrink unnoticed."""
    assert len(PURE) >= 92


@pytest.mark.parametrize(
    "source",
    ["import asyncio", "from time import monotonic", "import random\nrandom.random()", "from random import choice",
     "from datetime import datetime\ndatetime.now()", "import random\nx = random.Random()", "import socket as s"],
)  # fmt: skip
def test_impurities_are_found(source: str) -> None:
    """Each kind of impurity is seen."""
    assert faults(ast.parse(source)) != []
