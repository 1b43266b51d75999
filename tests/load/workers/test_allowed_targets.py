"""Which targets an agent lets a run have."""

from __future__ import annotations

import pytest

from trunkline.errors import SettingsError
from trunkline.load.workers.allowed_targets import is_allowed, parse_allowed


@pytest.mark.parametrize(
    ("url", "yes"),
    [
        ("ws://a.example/x?y=1", True),
        ("wss://A.Example:9999/", True),
        ("ws://b.example:8080", True),
        ("ws://b.example:8081", False),
        ("ws://b.example", False),
        ("wss://c.example", True),
        ("ws://c.example", False),
        ("ws://[::1]:9/", True),
        ("ws://[::2]:9/", False),
        ("ws://x.a.example", False),
        ("ws://a.example.evil", False),
        ("ws://a.example@evil/", False),
        ("ws://evil@a.example/", False),
        ("ws://evil\\@a.example/", False),
        ("ws://a.example./", False),
        ("ws://a\u3002example/", False),
        ("ws://a%2eexample/", False),
        ("ws://a.example%00/", False),
        ("ws://a.example;@evil/", False),
        ("ws://[::ffff:0:1]/", False),
        ("ws://0:0:0:0:0:0:0:1/", False),
        ("ws://127.1/", False),
        ("ws://2130706433/", False),
        ("ws://0.0.0.0/", False),
        ("ws://[::]/", False),
        ("ws:/a.example/", False),
        ("ws://a.example\\.evil/", False),
        ("ws://a.example:8080:9/", False),
        ("ws://a.example\n/", False),
        ("ws:///a.example", False),
        ("ws://[::1", False),
        ("http://a.example/", False),
        ("a.example", False),
        ("", False),
    ],
)
def test_only_named_hosts(url: str, yes: bool) -> None:
    """A host allows all of its ports, host:port that port; anything that could be read in two ways is refused."""
    assert is_allowed(url, parse_allowed(["a.example", "b.example:8080", "c.example:443", "[::1]"])) is yes


@pytest.mark.parametrize("text", ["", "ws://a", "a:b", "a b", "*", "a:123456", "::1", "a/"])
def test_what_is_no_host_is_refused(text: str) -> None:
    """An --allow that is no host is named."""
    with pytest.raises(SettingsError, match="--allow"):
        parse_allowed([text])
