from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.bus.base import Retention
from trunkline.errors import SettingsError
from trunkline.server.channels.rules import RuleSet, check_channel_name
from trunkline.settings.channels import ChannelRule
from trunkline.settings.load import load

TOKEN = st.text("abcXYZ019_~:@=+-", min_size=1, max_size=6)
NAME = st.lists(TOKEN, min_size=1, max_size=5).map(".".join)
ME = {"sub": "alice"}


def may(pattern: str, channel: str, claims: dict[str, Any] | None = None, *, subscribe: Any = "anyone") -> bool:
    return RuleSet([ChannelRule(pattern, subscribe=subscribe)], []).may_subscribe(channel, claims)


@pytest.mark.parametrize("name", ["a", "public.news", "chat.room-1", "user.a@b:c=d+e~f_g", "x" * 200])
def test_good_names(name: str) -> None:
    """Tokens of the allowed characters joined by dots are channel names."""
    assert check_channel_name(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a*", "*", "a.>", "ä", "a/b", "a\n", "{sub}", "x" * 201, "a\x00"]
)
def test_bad_names(name: str) -> None:
    """Everything else is refused with a text that says what is allowed."""
    problem = check_channel_name(name)
    assert problem is not None
    assert problem.startswith("channel")
    assert not may("**", name)


@pytest.mark.parametrize(
    ("pattern", "channel", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.b", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.**", "a.b", True),
        ("a.**", "a.b.c.d", True),
        ("a.**", "a", False),
        ("a.*.**", "a.b", False),
        ("a.*.**", "a.b.c", True),
        ("**", "anything.at.all", True),
        ("ab.**", "abc.d", False),
    ],
)
def test_patterns(pattern: str, channel: str, matches: bool) -> None:
    """`*` is one token, `**` one or more at the end, everything else is itself."""
    assert may(pattern, channel) is matches


@pytest.mark.parametrize(
    ("claims", "channel", "matches"),
    [
        ({"sub": "alice"}, "user.alice.inbox", True),
        ({"sub": "alice"}, "user.bob.inbox", False),
        ({"sub": 42}, "user.42.inbox", True),
        ({"sub": True}, "user.True.inbox", False),
        ({"sub": ["alice"]}, "user.alice.inbox", False),
        ({}, "user.alice.inbox", False),
        (None, "user.alice.inbox", False),
        ({"other": "alice"}, "user.alice.inbox", False),
        ({"sub": "*"}, "user.alice.inbox", False),
        ({"sub": "**"}, "user.alice.inbox", False),
        ({"sub": "{sub}"}, "user.alice.inbox", False),
        ({"sub": "alice.inbox"}, "user.alice.inbox", False),
        ({"sub": "alice.x"}, "user.alice.x.inbox", False),
        ({"sub": ""}, "user.alice.inbox", False),
    ],
)
def test_claims_in_patterns(claims: dict[str, Any] | None, channel: str, matches: bool) -> None:
    """`{claim}` is exactly the claim's text or number, in one token; nothing in a claim widens the match."""
    assert may("user.{sub}.*", channel, claims) is matches


@given(claim=st.text(max_size=8), name=NAME)
def test_no_claim_value_widens(claim: str, name: str) -> None:
    """Whatever text a claim holds, only a token equal to it matches."""
    assert may("user.{sub}.**", f"user.{name}", {"sub": claim}) == (name.split(".")[0] == claim and "." in name)


@given(name=NAME, cut=st.integers(0, 4))
def test_a_pattern_made_from_a_name_matches_it(name: str, cut: int) -> None:
    """A name matches itself, itself with any token starred, and itself with its end as `**`."""
    tokens = name.split(".")
    at = cut % len(tokens)
    assert may(name, name)
    assert may(".".join([*tokens[:at], "*", *tokens[at + 1 :]]), name)
    assert may(".".join([*tokens[:at], "**"]), name)
    assert not may(".".join([*tokens, "**"]), name)


@pytest.mark.parametrize(
    ("access", "claims", "allowed"),
    [
        ("anyone", None, True),
        ("nobody", ME, False),
        ("authenticated", ME, True),
        ("authenticated", {}, False),
        ("authenticated", None, False),
        ("role=admin", {"role": "admin"}, True),
        ("role=admin", {"role": "administrator"}, False),
        ("role=admin", {"role": ["user", "admin"]}, True),
        ("role=admin", {"role": "user admin"}, False),
        ("scope=chat:write", {"scope": "chat:read chat:write"}, True),
        ("scope=chat", {"scope": "chat:read chat:write"}, False),
        ("realm.roles=admin", {"realm": {"roles": ["admin"]}}, True),
        ("https://x.example/role=admin", {"https://x.example/role": "admin"}, True),
        ("level=3", {"level": 3}, True),
        ("staff=true", {"staff": True}, True),
        ("staff=false", {"staff": False}, True),
        ("staff=true", {"staff": 1}, False),
        ("role=*", {"role": "x"}, True),
        ("role=*", {"role": ""}, False),
        ("role=*", ME, False),
        (("role=admin", "role=editor"), {"role": "editor"}, True),
        (("role=admin", "role=editor"), {"role": "x"}, False),
        ((), ME, False),
    ],
)
def test_access(access: Any, claims: dict[str, Any] | None, allowed: bool) -> None:
    """Access words and claims say who may; of a list any one is enough."""
    assert may("a", "a", claims, subscribe=access) is allowed


def test_subscribe_and_publish_are_apart() -> None:
    """A rule without `publish` lets nobody publish."""
    rules = RuleSet([ChannelRule("news.**", subscribe="anyone")])
    assert rules.may_subscribe("news.today", None)
    assert not rules.may_publish("news.today", ME)


def test_the_first_matching_rule_decides() -> None:
    """A later rule cannot give what an earlier one refuses."""
    rules = RuleSet([ChannelRule("public.secret.**"), ChannelRule("public.secret.x", subscribe="anyone")])
    assert not rules.may_subscribe("public.secret.x", ME)
    assert rules.may_subscribe("public.other", None)


def test_built_in_rules() -> None:
    """Public, chat and match channels are open; presence and everything unnamed are closed; presence keeps nothing."""
    rules = RuleSet([])
    for channel in ("public.a", "chat.lobby", "match.7"):
        assert rules.may_subscribe(channel, None)
        assert rules.may_publish(channel, None)
        assert rules.retention(channel) == Retention(1000, 300.0)
    for channel in ("presence.match.7", "other", "orders.1", "public", "chat"):
        assert not rules.may_subscribe(channel, ME)
        assert not rules.may_publish(channel, ME)
    assert not rules.retention("presence.match.7").kept
    assert rules.retention("orders.1").kept


def test_retention_from_settings() -> None:
    """A rule's history wins over the section's; a claim pattern counts for anybody's channel."""
    environ = {
        "TRUNKLINE_CHANNELS_HISTORY": "50",
        "TRUNKLINE_CHANNELS_RULES": '[{"pattern": "user.{sub}.**", "history": 7, "history_age_s": 60},'
        '{"pattern": "public.fast.*", "history": 0}]',
        "TRUNKLINE_LIMITS_CHANNEL_NAME_BYTES": "20",
    }
    rules = RuleSet.of(load(None, environ, {}).settings)
    assert rules.retention("user.bob.inbox") == Retention(7, 60.0)
    assert rules.retention("public.fast.x") == Retention(0, 300.0)
    assert rules.retention("public.slow") == Retention(50, 300.0)
    assert rules.may_subscribe("public." + "x" * 13, None)
    assert not rules.may_subscribe("public." + "x" * 14, None)


def test_remembered_retentions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many channel names do not grow memory, and the answers stay right."""
    monkeypatch.setattr("trunkline.server.channels.rules._MAX_CACHED", 10)
    rules = RuleSet([ChannelRule("a.*", history=3)])
    for number in range(100):
        assert rules.retention(f"a.{number}").count == 3
    assert len(rules._retention) == 10


@pytest.mark.parametrize("rule", [ChannelRule("a.**.b"), ChannelRule("a..b"), ChannelRule("a", subscribe="admin")])
def test_unusable_rules(rule: ChannelRule) -> None:
    """A rule of the application that cannot be understood is refused."""
    with pytest.raises(SettingsError):
        RuleSet([rule])


def test_retentions_are_those_that_a_channel_can_have() -> None:
    """Each once, none that keeps nothing, none behind a rule that fits every channel."""
    rules = [ChannelRule("a.**", history=5), ChannelRule("b", history=0), ChannelRule("c", history=5)]
    kept = Retention(1000, 300.0)
    assert RuleSet(rules, (), retention=kept).retentions == [Retention(5, 300.0), kept]
    assert RuleSet([*rules, ChannelRule("**", history=0)], (), retention=kept).retentions == [Retention(5, 300.0)]
