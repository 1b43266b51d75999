"""Where settings come from: a TOML text, the environment and flags, laid over the defaults of typed sections.

Rules:

- Nothing here knows a single setting. `config.py` hands in its sections (a struct class each) and gets values back.
- A later source wins: defaults, file, environment, flags. Each value remembers its source.
- Whatever is not known or does not fit stops with a `SettingsError` that names key, value, what is allowed, the nearest
  known name and the source; a typing slip must never become a silent default.
- Secrets are `Secret`, which does not print; passwords within URLs are masked.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from trunkline.errors import SettingsError

MASK = "***"
PREFIX = "TRUNKLINE_"
CONFIG_VARIABLE = "TRUNKLINE_CONFIG"
"""Names the TOML file; the one `TRUNKLINE_` name that is not a setting."""

# Kubernetes puts variables for every Service of a namespace into each pod. A Service called `trunkline` or
# `trunkline-server` makes names that look like ours (TRUNKLINE_SERVER_PORT=tcp://10.0.0.7:3001); they are not settings.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^/?#@\s,]*@")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_MILLISECONDS = {"ms": 1.0, "s": 1e3, "m": 60e3, "min": 60e3, "h": 3600e3, "d": 86400e3}
_SECONDS = {unit: amount / 1000 for unit, amount in _MILLISECONDS.items()}
_BYTES = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3,
}  # fmt: skip


class Secret:
    """A value that must not be seen: `repr` is `***`, and it cannot be printed or encoded by accident.

    `str()` raises rather than mask: whoever wants text wants the value, and a key that is silently `***` lets everybody
    in.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        raise TypeError("a Secret has no text; call reveal() where the value is needed")

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class Variable(NamedTuple):
    """One setting as a source may spell it: section, name within it, and the environment names, best first."""

    section: str
    name: str
    environment: tuple[str, ...]

    @property
    def key(self) -> str:
        """The full name, `section.name`."""
        return f"{self.section}.{self.name}"


class Value(NamedTuple):
    """A converted value and where it came from."""

    value: object
    source: str


Sections = Mapping[str, type[msgspec.Struct]]


def mask_url(text: str) -> str:
    """`text` with the user, password or token of every URL in it replaced by `***`."""
    return _USERINFO.sub(rf"\g<scheme>{MASK}@", text)


def variables(sections: Sections, plain: Mapping[str, str]) -> dict[str, Variable]:
    """Every setting by its full name.

    Args:
        sections: the struct class of each section.
        plain: environment names that work without the prefix, by full setting name.
    """
    found: dict[str, Variable] = {}
    for section, struct in sections.items():
        for field in msgspec.structs.fields(struct):
            key = f"{section}.{field.name}"
            names = [f"{PREFIX}{section}_{field.name}".upper()]
            if key in plain:
                names.append(plain[key])
            found[key] = Variable(section, field.name, tuple(names))
    return found


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """The known name that `wrong` was most likely meant to be, or None when nothing is close."""
    names = list(known)
    section, _, last = wrong.rpartition(".")
    same_name = [name for name in names if name.rpartition(".")[2] == last]
    if same_name:
        return same_name[0]
    # A slip within the right section is likelier than a similar word elsewhere. There only the names are compared, for
    # the section they share would make any two of them look alike.
    siblings = {name.removeprefix(f"{section}."): name for name in names if section and name.startswith(f"{section}.")}
    for candidates, word in ((siblings, last), ({name: name for name in names}, wrong)):
        close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
        if close:
            return candidates[close[0]]
    return None


# --- one value --------------------------------------------------------------------------------------------------------


def type_of(struct: type[msgspec.Struct], name: str) -> Any:
    """The declared type of a field with its constraints."""
    return next(field.type for field in msgspec.structs.fields(struct) if field.name == name)


def help_of(declared: Any) -> str:
    """The one-line help that stands at the field (`Meta(description=...)`)."""
    info = inspect.type_info(declared)
    if isinstance(info, inspect.Metadata) and info.extra_json_schema:
        return str(info.extra_json_schema.get("description", ""))
    return ""


def is_secret(declared: Any) -> bool:
    """Whether the field holds a `Secret`."""
    return any(isinstance(part, inspect.CustomType) and part.cls is Secret for part in _alternatives(declared))


def allowed_text(name: str, declared: Any) -> str:
    """What a field takes, in words."""
    info = inspect.type_info(declared)
    words = _own_words(info)
    if not words:
        words = " or ".join(_words(part) for part in _alternatives(declared))
    units, example = _units(name)
    return f"{words} ({example})" if units else words


def convert(name: str, declared: Any, raw: object, *, textual: bool) -> object:
    """Turn one raw value into what the field declares.

    Args:
        name: the field's name; its ending (`_ms`, `_s`, `_bytes`) tells the unit of a bare number.
        declared: the field's type with constraints.
        raw: the value as the source has it.
        textual: true when the source knows only text (the environment), so that numbers, booleans and lists are read
            from it.

    Raises:
        ValueError: the value does not fit; the message is for developers, `allowed_text` is for users.
    """
    parts = _alternatives(declared)
    if isinstance(raw, str):
        listed = any(isinstance(part, inspect.VarTupleType) for part in parts)
        if listed and textual:
            if raw.lstrip().startswith("["):
                raw, textual = msgspec.json.decode(raw), False
            else:
                raw = [item for item in (piece.strip() for piece in raw.split(",")) if item]
        elif not listed:
            units, _ = _units(name)
            raw = _quantity(raw, units, whole=any(isinstance(part, inspect.IntType) for part in parts))
            if any(isinstance(part, inspect.LiteralType) for part in parts) and isinstance(raw, str):
                raw = _as_spelled(raw, parts)
    return msgspec.convert(raw, declared, strict=not textual, dec_hook=_decode_custom)


def _decode_custom(kind: type, raw: object) -> object:
    if not isinstance(raw, str):
        raise TypeError("text is needed")
    if kind is Secret:
        return Secret(raw)
    if kind is Path:
        return Path(raw).expanduser()
    raise NotImplementedError(kind)


def _as_spelled(raw: str, parts: list[inspect.Type]) -> str:
    for part in parts:
        if isinstance(part, inspect.LiteralType):
            for value in part.values:
                if isinstance(value, str) and value.lower() == raw.strip().lower():
                    return value
    return raw


def _quantity(raw: str, units: Mapping[str, float], *, whole: bool) -> object:
    match = _QUANTITY.fullmatch(raw.strip()) if units else None
    if match is None or match[2].lower() not in units:
        return raw
    amount = float(match[1]) * units[match[2].lower()]
    return round(amount) if whole and amount >= 1 else amount


def _units(name: str) -> tuple[Mapping[str, float], str]:
    if name.endswith("_per_s"):
        return {}, ""
    if name.endswith("_ms"):
        return _MILLISECONDS, 'milliseconds, or text such as "30s"'
    if name.endswith("_s"):
        return _SECONDS, 'seconds, or text such as "5m"'
    if name.endswith("_bytes"):
        return _BYTES, 'bytes, or text such as "64KiB"'
    return {}, ""


def _alternatives(declared: Any) -> list[inspect.Type]:
    return _flatten(inspect.type_info(declared))


def _flatten(info: inspect.Type) -> list[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        return _flatten(info.type)
    if isinstance(info, inspect.UnionType):
        return [part for kind in info.types for part in _flatten(kind) if not isinstance(part, inspect.NoneType)]
    return [info]


def _own_words(info: inspect.Type) -> str:
    if isinstance(info, inspect.Metadata):
        return str((info.extra or {}).get("allowed", "")) or _own_words(info.type)
    if isinstance(info, inspect.UnionType):
        return next((words for words in map(_own_words, info.types) if words), "")
    return ""


def _words(info: inspect.Type) -> str:
    own = _own_words(info)
    if own:
        return own
    match info:
        case inspect.Metadata():
            return _words(info.type)
        case inspect.IntType():
            return "a whole number" + _range(info.ge, info.gt, info.le)
        case inspect.FloatType():
            return "a number" + _range(info.ge, info.gt, info.le)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return "one of " + ", ".join(str(value) for value in info.values)
        case inspect.VarTupleType():
            return f"a list, each {_words(info.item_type)}"
        case inspect.CustomType():
            return "a path" if info.cls is Path else "text"
        case inspect.StructType():
            return "a table with " + ", ".join(field.name for field in info.fields)
        case _:
            return "text"


def _range(ge: float | None, gt: float | None, le: float | None) -> str:
    low = "" if ge is None else f"{ge:,}"
    if gt is not None:
        return f" above {gt:,}" + ("" if le is None else f" up to {le:,}")
    if low and le is not None:
        return f" from {low} to {le:,}"
    if low:
        return f" of at least {low}"
    return "" if le is None else f" up to {le:,}"


def shown(raw: object, declared: Any = None) -> str | None:
    """A value as an error may quote it: None for a secret, URLs masked, long text cut."""
    if declared is not None and is_secret(declared):
        return None
    text = mask_url(raw if isinstance(raw, str) else repr(raw))
    return text if len(text) <= 200 else text[:197] + "..."


# --- sources ----------------------------------------------------------------------------------------------------------


def from_toml(text: str, file: str, sections: Sections) -> dict[str, Value]:
    """Read the settings of a TOML text.

    Args:
        text: the file's content.
        file: its name, for messages.
        sections: the struct class of each section.

    Raises:
        SettingsError: no TOML, an unknown section or key, or a value that does not fit.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(file, allowed=f"it is not valid TOML: {error}") from None
    lines = toml_lines(text)

    def source(key: str) -> str:
        return f"{file} line {lines[key]}" if key in lines else file

    known = variables(sections, {})
    values: dict[str, Value] = {}
    for section, table in tables.items():
        if section not in sections:
            everything = [*sections, *known]
            raise SettingsError(
                section,
                allowed=f"there is no such section; known sections: {', '.join(sections)}",
                nearest=nearest(section, everything),
                source=source(section),
            )
        if not isinstance(table, dict):
            allowed = f"it must be a section, written [{section}]"
            raise SettingsError(section, value=shown(table), allowed=allowed, source=source(section))
        for name, raw in table.items():
            key = f"{section}.{name}"
            if key not in known:
                raise SettingsError(
                    key, allowed="there is no such setting", nearest=nearest(key, known), source=source(key)
                )
            _refuse_unknown_in_tables(key, type_of(sections[section], name), raw, source)
            values[key] = Value(_checked(key, sections[section], name, raw, source, textual=False), source(key))
    return values


def from_environment(environ: Mapping[str, str], sections: Sections, plain: Mapping[str, str]) -> dict[str, Value]:
    """Read the settings of the environment; lists are comma separated, an empty value counts as not given.

    An empty value of a list is an empty list, so that a default list can be switched off.

    Raises:
        SettingsError: a `TRUNKLINE_` name that is no setting, or a value that does not fit.
    """
    known = variables(sections, plain)
    by_name = {name: variable for variable in known.values() for name in variable.environment}
    values: dict[str, Value] = {}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in by_name and name != CONFIG_VARIABLE:
            if _SERVICE_LINK.search(name) or _SERVICE_LINK_VALUE.match(environ[name]):
                continue
            raise SettingsError(
                name,
                allowed="there is no such setting",
                nearest=nearest(name, by_name),
                source="environment",
            )
    for key, variable in known.items():
        declared = type_of(sections[variable.section], variable.name)
        for name in variable.environment:
            raw = environ.get(name)
            listed = any(isinstance(part, inspect.VarTupleType) for part in _alternatives(declared))
            if raw is None or (raw == "" and not listed):
                continue
            if name.startswith(PREFIX) and name.endswith("_PORT") and _SERVICE_LINK_VALUE.match(raw):
                continue
            source = f"environment {name}"
            struct = sections[variable.section]
            value = _checked(key, struct, variable.name, raw, lambda _, source=source: source, textual=True)
            values[key] = Value(value, source)
            break
    return values


def from_flags(flags: Mapping[str, object], sections: Sections) -> dict[str, Value]:
    """Read settings given on the command line, by full name; None means not given.

    Raises:
        SettingsError: a name that is no setting, or a value that does not fit.
    """
    known = variables(sections, {})
    values: dict[str, Value] = {}
    for key, raw in flags.items():
        if raw is None:
            continue
        if key not in known:
            raise SettingsError(
                key, allowed="there is no such setting", nearest=nearest(key, known), source="command line"
            )
        variable = known[key]
        if isinstance(raw, Path):
            raw = str(raw)
        value = _checked(
            key, sections[variable.section], variable.name, raw, lambda _: "command line", textual=isinstance(raw, str)
        )
        values[key] = Value(value, "command line")
    return values


def _checked(key: str, struct: type[msgspec.Struct], name: str, raw: object, source: Any, *, textual: bool) -> object:
    declared = type_of(struct, name)
    try:
        return convert(name, declared, raw, textual=textual)
    except (ValueError, TypeError) as error:
        key, culprit, declared, name = _innermost(key, declared, name, raw, str(error))
        allowed = f"allowed: {allowed_text(name, declared)}"
        raise SettingsError(key, value=shown(culprit, declared), allowed=allowed, source=source(key)) from None


_PLACE = re.compile(r"\$\[(\d+)\]\.(\w+)")


def _innermost(key: str, declared: Any, name: str, raw: object, error: str) -> tuple[str, object, Any, str]:
    """Name the field within a list of tables that did not fit, so that the message is about it and not the list."""
    struct = _item_struct(declared)
    place = _PLACE.search(error)
    if struct is None or place is None or not isinstance(raw, list):
        return key, raw, declared, name
    index, field = int(place[1]), place[2]
    return f"{key}[{index}].{field}", raw[index].get(field), type_of(struct, field), field


def _item_struct(declared: Any) -> type[msgspec.Struct] | None:
    for part in _alternatives(declared):
        if isinstance(part, inspect.VarTupleType):
            for item in _flatten(part.item_type):
                if isinstance(item, inspect.StructType):
                    return item.cls
    return None


def _refuse_unknown_in_tables(key: str, declared: Any, raw: object, source: Any) -> None:
    struct = _item_struct(declared)
    if struct is None or not isinstance(raw, list):
        return
    names = [field.name for field in msgspec.structs.fields(struct)]
    for index, table in enumerate(raw):
        for name in table if isinstance(table, dict) else ():
            if name not in names:
                full = f"{key}[{index}].{name}"
                raise SettingsError(
                    full,
                    allowed=f"there is no such key; a table of {key} has {', '.join(names)}",
                    nearest=nearest(name, names),
                    source=source(full),
                )


_LINE = re.compile(
    r"\s*(?:\[\[\s*(?P<tables>[\w.\-]+)\s*\]\]|\[\s*(?P<table>[\w.\-]+)\s*\]\s*(?:#.*)?$|(?P<key>[\w.\-]+)\s*=)"
)


def toml_lines(text: str) -> dict[str, int]:
    """The line on which each section and key of a TOML text stands, counted from 1.

    A light scan, for messages only: quoted keys and keys within inline tables are not found.
    """
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    header = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.match(line)
        if match is None:
            continue
        if match["tables"]:
            index = counts.get(match["tables"], 0)
            counts[match["tables"]] = index + 1
            header = f"{match['tables']}[{index}]"
            places.setdefault(match["tables"], number)
        elif match["table"]:
            header = match["table"]
        key = f"{header}.{match['key']}" if match["key"] and header else match["key"] or header
        places.setdefault(key, number)
    return places
