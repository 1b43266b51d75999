"""The public API as type checkers see it: decorated things keep their types, and nothing is `Any`."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from pathlib import Path

import pytest
from mypy import api

import trunkline
from trunkline.settings.sections import Settings

SAMPLE = Path(__file__).with_name("typed_sample.py")
LATE = {"Settings": Settings}
"""What the API imports for type checkers alone."""


@pytest.fixture(scope="module")
def report() -> list[str]:
    """What mypy says of the sample, as `note: …` and `error: …`."""
    limit = sys.getrecursionlimit()
    out, err, _ = api.run(["--strict", "--follow-imports=silent", "--no-error-summary", str(SAMPLE)])
    # mypy raises it for the whole process; other tests count on the usual one.
    sys.setrecursionlimit(limit)
    assert not err
    return [line.partition(": ")[2].replace("builtins.", "") for line in out.splitlines()]


def test_decorated_things_keep_their_types(report: list[str]) -> None:
    """A class stays that class, a function that function; what the API returns has a type."""
    revealed = [re.sub(r"trunkline\.[\w.]*\.", "", line) for line in report if "Revealed type" in line]
    assert [line.partition('"')[2].rstrip('"') for line in revealed] == [
        "object",
        "bytes",
        "def () -> tests.server.app.typed_sample.Chat",
        "def (client: Client) -> typing.Coroutine[Any, Any, None]",
        "def () -> typing.Coroutine[Any, Any, None]",
        "State",
        "object",
        "_asyncio.Task[str]",
        "typing.Mapping[str, object]",
        "typing.Mapping[str, str]",
        "def (channel: str, data: object) -> typing.Coroutine[Any, Any, Position | None]",
    ]


def test_what_is_no_endpoint_is_an_error(report: list[str]) -> None:
    """The two mistakes in the sample are found, and nothing else is."""
    errors = [line for line in report if line.startswith("error")]
    assert len(errors) == 2, errors
    assert "NoEndpoint" in errors[0]
    assert "heard" in errors[1] or "Publication" in errors[1]


def hints(value: object, seen: set[int]) -> typing.Iterator[object]:
    """A type and all that it is made of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    for part in typing.get_args(value):
        for inner in part if isinstance(part, list) else [part]:
            yield from hints(inner, seen)


@pytest.mark.parametrize("name", sorted(set(trunkline.__all__) - {"__version__"}))
def test_no_any_in_the_public_api(name: str) -> None:
    """Neither an argument nor a result nor an attribute of a public class is `Any`."""
    public = getattr(trunkline, name)
    functions = [
        member.fget if isinstance(member, property) else member
        for attribute, member in inspect.getmembers(public)
        if not attribute.startswith("_") or attribute in ("__init__", "__aiter__")
        if isinstance(member, (types.FunctionType, property))
    ]
    for described in [public, *functions]:
        for argument, hint in typing.get_type_hints(described, localns=LATE).items():
            assert typing.Any not in hints(hint, set()), f"{described.__qualname__}: {argument}"


def test_users_of_a_client_see_their_members_alone() -> None:
    """What a client has for the node is not in sight."""
    client = trunkline.Client
    assert {name for name in dir(client) if not name.startswith("_")} == {
        "address", "claims", "close", "connected", "id", "join", "leave", "params", "publish", "query", "resumed",
        "send", "session", "state", "subject",
    }  # fmt: skip
