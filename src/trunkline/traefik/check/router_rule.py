"""Whether a router's rule is one to Traefik 3, and if not, why and what it may have meant. Pure.

Rules:

- A rule is an expression of Go, read by Go's parser: names, text in backticks or quotes, `&&`, `||`, `!`, brackets.
  A line may end within it only after an operator, a comma or an opening bracket.
- Matchers are known in four spellings each: as documented, in lower case, in upper case, and capitalised.
- What older versions took as a rule may still be one and match nothing: it is named too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

from trunkline.traefik.check.values import is_network, why_no_expression

Syntax = Literal["v3", "v2"]
Protocol = Literal["http", "tcp"]

_MAX_DEPTH: Final = 200


class RuleFault(NamedTuple):
    """What is wrong with a rule, what to write, and whether Traefik takes it nevertheless."""

    why: str
    instead: str
    taken: bool = False


class _Call(NamedTuple):
    name: str
    arguments: tuple[str, ...]


class _Matcher(NamedTuple):
    counts: tuple[int, ...]
    why_no: Callable[[str], str | None] | None = None


class _BadRuleError(Exception):
    pass


def _why_no_path(text: str) -> str | None:
    return None if text.startswith("/") else f"the path {text!r} does not begin with /"


def _why_no_client(text: str) -> str | None:
    return None if is_network(text) else f"{text!r} is no address or network"


def _why_no_host(text: str) -> str | None:
    return None if text.isascii() else f"the host {text!r} is not in ASCII (write its xn-- form)"


def _why_no_host_expression(text: str) -> str | None:
    return _why_no_host(text) or why_no_expression(text)


def _why_no_name(text: str) -> str | None:
    if text == "*" or re.fullmatch(r"(\*\.)?[A-Za-z0-9_.:-]+", text):
        return None
    return f"{text!r} is no host name"


def _why_no_protocol(text: str) -> str | None:
    return "acme-tls/1 is Traefik's own" if text == "acme-tls/1" else None


_HTTP: Final[Mapping[str, _Matcher]] = {
    "ClientIP": _Matcher((1,), _why_no_client),
    "Method": _Matcher((1,)),
    "Host": _Matcher((1,), _why_no_host),
    "HostRegexp": _Matcher((1,), _why_no_host_expression),
    "Path": _Matcher((1,), _why_no_path),
    "PathRegexp": _Matcher((1,), why_no_expression),
    "PathPrefix": _Matcher((1,), _why_no_path),
    "Header": _Matcher((2,)),
    "HeaderRegexp": _Matcher((2,), why_no_expression),
    "Query": _Matcher((1, 2)),
    "QueryRegexp": _Matcher((1, 2), why_no_expression),
}
_TCP: Final[Mapping[str, _Matcher]] = {
    "ALPN": _Matcher((1,), _why_no_protocol),
    "ClientIP": _Matcher((1,), _why_no_client),
    "HostSNI": _Matcher((1,), _why_no_name),
    "HostSNIRegexp": _Matcher((1,), _why_no_host_expression),
}
_V2: Final[Mapping[Protocol, tuple[str, ...]]] = {
    "http": ("Host", "HostHeader", "HostRegexp", "ClientIP", "Path", "PathPrefix", "Method", "Headers",
             "HeadersRegexp", "Query"),
    "tcp": ("ALPN", "ClientIP", "HostSNI", "HostSNIRegexp"),
}  # fmt: skip
_RENAMED: Final = {"headers": "Header", "headersregexp": "HeaderRegexp", "hostheader": "Host"}
_EACH_ONE: Final = ("Host", "HostRegexp", "Path", "PathPrefix", "Method", "ClientIP", "HostSNI", "ALPN")
_V1: Final = re.compile(r"\s*[A-Za-z]+\s*:")
_TEMPLATE: Final = re.compile(r"\{[A-Za-z_]\w*(:[^{}]*(\{[^{}]*\}[^{}]*)*)?\}")


def rule_fault(rule: str, protocol: Protocol, syntax: Syntax = "v3", has_tls: bool = True) -> RuleFault | None:
    """What is wrong with the rule of a router, with TLS or without; None when Traefik takes it and it can match."""
    try:
        calls = _Parser(rule).calls()
        for call in calls:
            _check(call, protocol, syntax)
    except _BadRuleError as error:
        return RuleFault(str(error), _instead(rule, protocol))
    names = [call.arguments[0] for call in calls if call.name.lower() == "hostsni"]
    if not has_tls and any(name != "*" for name in names):
        return RuleFault("only TLS carries the host name that HostSNI asks for", "write tls: {}, or HostSNI(`*`)")
    return None if syntax == "v2" else next(filter(None, map(_never_matches, calls)), None)


def _instead(rule: str, protocol: Protocol) -> str:
    if _V1.match(rule):
        return "write it as Traefik 3 has it: Host(`a.test`) && PathPrefix(`/b`)"
    found = re.search(r"\b(\w+)\s*\(", rule)
    if found and (renamed := _RENAMED.get(found.group(1).lower())):
        return f"write {renamed}(…)"
    if several := re.search(r"\b(\w+)\(\s*([`\"][^`\"]*[`\"])\s*,\s*([`\"][^`\"]*[`\"])", rule):
        name, first, second = several.groups()
        if name in _EACH_ONE:
            return f"write {name}({first}) || {name}({second})"
    return "write matchers such as " + ("HostSNI(`a.test`)" if protocol == "tcp" else "Host(`a.test`) && Path(`/b`)")


def _check(call: _Call, protocol: Protocol, syntax: Syntax) -> None:
    known = _HTTP if protocol == "http" else _TCP
    names = known if syntax == "v3" else dict.fromkeys(_V2[protocol])
    name = next((name for name in names if call.name in (name, name.lower(), name.upper(), name.capitalize())), None)
    if name is None:
        raise _BadRuleError(f"there is no matcher {call.name} ({', '.join(sorted(names))} are)")
    if not call.arguments or "" in call.arguments:
        raise _BadRuleError(f"{call.name} has an empty argument" if call.arguments else f"{call.name} has no argument")
    if syntax == "v2":
        return
    matcher = known[name]
    count = len(call.arguments)
    if count not in matcher.counts:
        takes = " or ".join(map(str, matcher.counts))
        raise _BadRuleError(f"{call.name} takes {takes} argument{'s' * (takes != '1')}, not {count}")
    checks_last = matcher.why_no is not None and not (name == "QueryRegexp" and count == 1)
    why = matcher.why_no(call.arguments[-1]) if matcher.why_no is not None and checks_last else None
    if why:
        raise _BadRuleError(f"in {call.name}: {why}")


def _never_matches(call: _Call) -> RuleFault | None:
    """What Traefik 2 expanded, and Traefik 3 takes as it stands."""
    name, value = call.name.lower(), call.arguments[0]
    if name in ("path", "pathprefix", "host", "hostregexp", "hostsniregexp") and _TEMPLATE.search(value):
        expression = {"path": "PathRegexp", "pathprefix": "PathRegexp", "host": "HostRegexp"}.get(name, call.name)
        what = f"{call.name} takes {_found(value)!r} as it stands: Traefik 3 has no names in braces"
        return RuleFault(what, f"write an expression: {expression}(`^…[a-z]+…$`)", taken=True)
    if name == "query" and len(call.arguments) == 1 and "=" in value:
        key, _, wanted = value.partition("=")
        what = f"Query(`{value}`) asks for a parameter of the name {value!r}"
        return RuleFault(what, f"write Query(`{key}`, `{wanted}`)", taken=True)
    return None


def _found(value: str) -> str:
    found = _TEMPLATE.search(value)
    return found.group() if found else value


_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|//[^\n]*|/\*(?:(?!\*/)[^\n])*\*/)
      | (?P<line>\n|/\*(?:(?!\*/).)*\*/)
      | (?P<raw>`[^`]*`)
      | (?P<quoted>"(?:[^"\\\n]|\\.)*")
      | (?P<name>[^\W\d]\w*)
      | (?P<number>\.?\d[\w.]*)
      | (?P<sign>&&|\|\||!(?!=)|[(),])""",
    re.VERBOSE | re.DOTALL,
)


def _tokens(rule: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(rule):
        token = _TOKEN.match(rule, at)
        if token is None:
            raise _BadRuleError(f"{rule[at : at + 10]!r} at sign {at + 1} belongs in no rule")
        kind = token.lastgroup or ""
        # Go ends a statement where a line ends behind a name, a value or a closing bracket.
        if kind == "line" and found and (found[-1][0] in ("string", "name", "number") or found[-1][1] == ")"):
            found.append(("end", "the end of a line"))
        elif kind in ("raw", "quoted"):
            found.append(("string", _unquoted(token.group())))
        elif kind not in ("space", "line"):
            found.append((kind, token.group()))
        at = token.end()
    if found and found[-1][0] == "end":
        found.pop()
    return found


_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")

    def plain(found: re.Match[str]) -> str:
        sign = found.group(1)
        if len(sign) == 1:
            if sign not in _ESCAPES:
                raise _BadRuleError(f"\\{sign} is no escape in {text}; write the text in backticks")
            return _ESCAPES[sign]
        code = int(sign[1:], 16) if sign[0] in "xuU" else int(sign, 8)
        return chr(min(code, 0x10FFFF))

    return _ESCAPE.sub(plain, text[1:-1])


class _Parser:
    """Reads one rule: `||` binds less than `&&`, both less than `!`."""

    def __init__(self, rule: str) -> None:
        self._tokens = [*_tokens(rule), ("eof", "the end")]
        self._at = 0
        self._calls: list[_Call] = []

    def calls(self) -> list[_Call]:
        """Its matchers in order; raises _BadRuleError."""
        self._either(0)
        if self._tokens[self._at][0] != "eof":
            raise _BadRuleError(f"{self._here()} stands where an operator or the end should")
        return self._calls

    def _here(self) -> str:
        kind, text = self._tokens[self._at]
        return text if kind in ("eof", "end") else repr(text)

    def _takes(self, *signs: str) -> bool:
        kind, text = self._tokens[self._at]
        if kind != "sign" or text not in signs:
            return False
        self._at += 1
        return True

    def _either(self, depth: int) -> None:
        # Which operator stands between two parts makes no difference to whether the rule is one.
        self._one(depth)
        while self._takes("&&", "||"):
            self._one(depth)

    def _one(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _BadRuleError("it nests too deep")
        while self._takes("!"):
            pass
        if self._takes("("):
            self._either(depth + 1)
            if not self._takes(")"):
                raise _BadRuleError(f"{self._here()} stands where ) should")
            return
        kind, text = self._tokens[self._at]
        if kind != "name":
            raise _BadRuleError(f"{self._here()} stands where a matcher should")
        self._at += 1
        if not self._takes("("):
            raise _BadRuleError(f"{text} is no matcher without brackets")
        self._calls.append(_Call(text, self._arguments()))

    def _arguments(self) -> tuple[str, ...]:
        found: list[str] = []
        while not self._takes(")"):
            kind, text = self._tokens[self._at]
            if kind != "string":
                raise _BadRuleError(f"{self._here()} stands where text in backticks or quotes should")
            found.append(text)
            self._at += 1
            if not self._takes(","):
                if not self._takes(")"):
                    raise _BadRuleError(f"{self._here()} stands where , or ) should")
                break
        return tuple(found)
