"""Which tests start processes: found in their code, so that nobody has to remember a mark.

A test reaches a name if it, a fixture that it uses, or a function or class of the tests that one of them names, names
it. That is coarse, in the right direction: a test that might start a process belongs to those that do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

STARTS: Final = frozenset(
    {
        # of the standard library
        "subprocess", "create_subprocess_exec", "create_subprocess_shell",
        # of the product: what starts processes of its own
        "Child", "Coordinator", "FleetNats", "LocalStack", "NatsServer", "Run", "TraefikProcess", "Workers",
        # of the tests' tools
        "async_playwright",
    }
)  # fmt: skip


def reaches(roots: Iterable[Callable[..., Any]], wanted: frozenset[str] = STARTS) -> bool:
    """Whether any of the functions reaches one of the names.

    Args:
        roots: a test and the functions of its fixtures.
        wanted: the names.
    """
    seen: set[int] = set()
    waiting = [_plain(root) for root in roots]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for function in _functions(one):
            names = set(_names(function.__code__))
            if names & wanted:
                return True
            named = [function.__globals__.get(name) for name in names]
            modules = [each for each in named if isinstance(each, ModuleType)]
            named += [vars(module).get(name) for module in modules for name in names]
            for each in named:
                if callable(each) and str(getattr(each, "__module__", "")).startswith("tests."):
                    waiting.append(_plain(each))
    return False


def _plain(function: Any) -> Any:
    return inspect.unwrap(function.__func__ if isinstance(function, MethodType) else function)


def _functions(one: Any) -> Iterator[FunctionType]:
    """A function; of a class, all that it and its bases within the tests define."""
    if isinstance(one, FunctionType):
        yield one
    elif isinstance(one, type):
        for kind in one.__mro__:
            if kind.__module__.startswith("tests."):
                for member in vars(kind).values():
                    member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                    if isinstance(member, FunctionType):
                        yield inspect.unwrap(member)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
