"""Channel names and the rules about them: who may subscribe and publish, and what is kept. Pure.

Grammar: a channel name is one or more tokens of `A-Z a-z 0-9 _ ~ : @ = + -` joined by dots. A pattern has the same
shape, where `*` stands for any one token, `**` at the end for one or more, and `{claim}` for the value of that claim in
the client's token.

Rules:

- The first rule that matches decides; what no rule allows is denied.
- A claim's value is compared with one whole token. A value with dots or stars in it therefore equals no token and can
  never widen a match; neither can a missing claim.
- Claims that are empty or missing mean an anonymous client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from trunkline.bus.base import Retention
from trunkline.errors import SettingsError
from trunkline.server.connections.identity import Claims
from trunkline.settings.channels import DEFAULT_RULES, ChannelRule

if TYPE_CHECKING:
    from trunkline.settings.sections import Settings

MAX_NAME_BYTES = 200
_MAX_CACHED = 10_000

_NAME = re.compile(r"[A-Za-z0-9_~:@=+-]+(?:\.[A-Za-z0-9_~:@=+-]+)*")
_PATTERN_TOKEN = re.compile(r"[A-Za-z0-9_~:@=+-]+|\*|\{[A-Za-z0-9_-]+\}")
_SPACE_SEPARATED = ("scope", "scp")
"""Claims that hold several values in one text (RFC 8693 section 4.2)."""


def check_channel_name(name: str, max_bytes: int = MAX_NAME_BYTES) -> str | None:
    """What is wrong with a channel name, as a text for whoever sent it; None when nothing is."""
    if not name:
        return "channel: the name is empty"
    if len(name) > max_bytes:
        return f"channel: the name has {len(name)} characters; the limit is {max_bytes}"
    if _NAME.fullmatch(name) is None:
        return f"channel {name!r}: allowed are tokens of A-Z a-z 0-9 _ ~ : @ = + - joined by single dots"
    return None


class _Rule:
    """A compiled rule: tokens, whether `**` ends them, who may, and what is kept."""

    __slots__ = ("may_publish", "may_subscribe", "open_end", "retention", "tokens")

    def __init__(self, rule: ChannelRule, kept: Retention) -> None:
        tokens = rule.pattern.split(".")
        self.open_end = tokens[-1] == "**"
        self.tokens = tuple(tokens[:-1] if self.open_end else tokens)
        for token in self.tokens:
            if _PATTERN_TOKEN.fullmatch(token) is None:
                raise SettingsError(
                    "channels.rules.pattern",
                    value=rule.pattern,
                    allowed="allowed: tokens joined by dots, each a name, '*' or '{claim}', and '**' at the end",
                )
        self.may_subscribe = _access("channels.rules.subscribe", rule.subscribe)
        self.may_publish = _access("channels.rules.publish", rule.publish)
        self.retention = Retention(
            kept.count if rule.history is None else rule.history,
            kept.age_s if rule.history_age_s is None else rule.history_age_s,
        )

    def matches(self, name: Sequence[str], claims: Claims | None) -> bool:
        """Whether the rule is about the channel of these tokens. Without claims (None) `{claim}` is any token."""
        length = len(self.tokens)
        if len(name) <= length if self.open_end else len(name) != length:
            return False
        for token, given in zip(self.tokens, name, strict=False):
            if token == given or token == "*":  # noqa: S105 - a wildcard, no password
                continue
            if token[0] != "{":
                return False
            value = given if claims is None else claims.get(token[1:-1])
            if isinstance(value, bool) or _as_text(value) != given:
                return False
        return True


class RuleSet:
    """The rules of a node, in order; `defaults` are tried last, and `retention` holds where a rule leaves it open.

    Raises:
        SettingsError: a pattern or an access that cannot be used.
    """

    def __init__(
        self,
        rules: Sequence[ChannelRule],
        defaults: Sequence[ChannelRule] = DEFAULT_RULES,
        *,
        retention: Retention = Retention(1000, 300.0),  # noqa: B008 - frozen
        max_name_bytes: int = MAX_NAME_BYTES,
    ) -> None:
        self._rules = tuple(_Rule(rule, retention) for rule in (*rules, *defaults))
        self._kept = retention
        self._retention: dict[str, Retention] = {}
        self.max_name_bytes = max_name_bytes

    @classmethod
    def of(cls, settings: Settings, rules: Sequence[ChannelRule] = ()) -> RuleSet:
        """The rules of the settings: the operator's, then `rules` of the application, then the built-in ones."""
        channels = settings.channels
        return cls(
            (*channels.rules, *rules),
            retention=Retention(channels.history, channels.history_age_s),
            max_name_bytes=settings.limits.channel_name_bytes,
        )

    @property
    def retentions(self) -> list[Retention]:
        """Every distinct retention that a channel can have and that keeps anything."""
        found: dict[Retention, None] = {}
        for rule in self._rules:
            found[rule.retention] = None
            if rule.tokens == () and rule.open_end:
                break  # it fits every channel, so what follows fits none
        else:
            found[self._kept] = None
        return [retention for retention in found if retention.kept]

    def may_subscribe(self, channel: str, claims: Claims | None) -> bool:
        """Whether a client with these claims may subscribe to `channel`; a malformed name: never."""
        rule = self._rule_for(channel, claims)
        return rule is not None and rule.may_subscribe(claims or {})

    def may_publish(self, channel: str, claims: Claims | None) -> bool:
        """Whether a client with these claims may publish to `channel`; a malformed name: never."""
        rule = self._rule_for(channel, claims)
        return rule is not None and rule.may_publish(claims or {})

    def retention(self, channel: str) -> Retention:
        """What is kept of `channel`, by the first rule whose pattern fits for anybody."""
        found = self._retention.get(channel)
        if found is None:
            name = channel.split(".")
            found = next((rule.retention for rule in self._rules if rule.matches(name, None)), self._kept)
            if len(self._retention) >= _MAX_CACHED:
                del self._retention[next(iter(self._retention))]
            self._retention[channel] = found
        return found

    def _rule_for(self, channel: str, claims: Claims | None) -> _Rule | None:
        if len(channel) > self.max_name_bytes or _NAME.fullmatch(channel) is None:
            return None
        name = channel.split(".")
        return next((rule for rule in self._rules if rule.matches(name, claims or {})), None)


_May = Callable[[Claims], bool]


_NAMED: dict[str, _May] = {"anyone": lambda _: True, "nobody": lambda _: False, "authenticated": bool}


def _access(key: str, access: str | tuple[str, ...]) -> _May:
    if not isinstance(access, str):
        choices = tuple(_access(key, one) for one in access)
        return lambda claims: any(may(claims) for may in choices)
    if access in _NAMED:
        return _NAMED[access]
    claim, equals, wanted = access.partition("=")
    if not (claim and equals and wanted):
        raise SettingsError(key, value=access, allowed=f"allowed: {', '.join(_NAMED)}, or a claim such as role=admin")
    return lambda claims: _holds(claims, claim, wanted)


def _holds(claims: Claims, claim: str, wanted: str) -> bool:
    value = _find(claims, claim)
    if value is None or value is False or value == "" or value == []:
        return wanted == "false" and value is False
    if wanted == "*":
        return True
    if isinstance(value, str) and claim in _SPACE_SEPARATED:
        return wanted in value.split()
    if isinstance(value, list):
        return any(_as_text(item) == wanted for item in value)
    return _as_text(value) == wanted


def _find(claims: Claims, claim: str) -> object:
    """A claim by its name, or else by a path of names joined by dots (`realm_access.roles`)."""
    if claim in claims:
        return claims[claim]
    value: object = claims
    for name in claim.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def _as_text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None
