"""Values of settings from a TOML text, the environment and flags, for the sections that the caller hands in. Pure.

Rules:

- Nothing here knows a single setting.
- Whatever is not known or does not fit is a `SettingsError` that names key, value, what is allowed, the nearest known
  name and the source; a typing slip must never become a silent default. Each goes to `refuse`, and the reading goes on,
  so that an operator sees all of them at once.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from trunkline.errors import SettingsError
from trunkline.settings.fields import Field, shown
from trunkline.settings.reading.spelling import nearest
from trunkline.settings.reading.toml_places import toml_lines

PREFIX = "TRUNKLINE_"
CONFIG_VARIABLE = "TRUNKLINE_CONFIG"
"""Names the TOML file; the one `TRUNKLINE_` name that is not a setting."""

# Kubernetes puts variables for every Service of a namespace into each pod. A Service called `trunkline` or
# `trunkline-server` makes names that look like ours (TRUNKLINE_SERVER_PORT=tcp://10.0.0.7:3001); they are not settings.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)

# Where msgspec's message says that an item of a list of tables does not fit.
_PLACE = re.compile(r"\$\[(\d+)\]\.(\w+)")
_MISSING = re.compile(r"missing required field `(\w+)` - at `\$\[(\d+)\]`")

Sections = Mapping[str, type[msgspec.Struct]]
Refuse = Callable[[SettingsError], None]
"""Gets what cannot be used."""

_Source = Callable[[str], str] | str
"""Where a setting stands: of a file a function of its full name."""


class Variable(NamedTuple):
    """One setting as a source may spell it: section, field, and the environment names, best first."""

    section: str
    field: Field
    environment: tuple[str, ...]


class Value(NamedTuple):
    """A converted value and where it came from."""

    value: object
    source: str


def variables(sections: Sections, plain: Mapping[str, str]) -> dict[str, Variable]:
    """Every setting by its full name, `section.name`; `plain` has environment names that work without the prefix."""
    found: dict[str, Variable] = {}
    for section, struct in sections.items():
        for field in _fields(struct):
            key = f"{section}.{field.name}"
            names = [f"{PREFIX}{section}_{field.name}".upper()]
            if key in plain:
                names.append(plain[key])
            found[key] = Variable(section, field, tuple(names))
    return found


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    # Annotations are evaluated at each look, which is half the time of reading settings.
    return tuple(Field(field.name, field.type) for field in msgspec.structs.fields(struct))


def from_toml(text: str, file: str, sections: Sections, refuse: Refuse) -> dict[str, Value]:
    """Read the settings of a TOML text.

    Args:
        text: the TOML.
        file: its name, for messages.
        sections: the known sections by name.
        refuse: gets what is no TOML, an unknown section or key, or a value that does not fit.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        refuse(SettingsError(file, allowed=f"it is not valid TOML: {error}"))
        return {}
    lines = toml_lines(text)

    def source(key: str) -> str:
        return f"{file} line {lines[key]}" if key in lines else file

    known = variables(sections, {})
    values: dict[str, Value] = {}
    for section, table in tables.items():
        if section not in sections:
            allowed = f"there is no such section; known sections: {', '.join(sections)}"
            near = nearest(section, [*sections, *known])
            refuse(SettingsError(section, allowed=allowed, nearest=near, source=source(section)))
        elif not isinstance(table, dict):
            allowed = f"it must be a section, written [{section}]"
            refuse(SettingsError(section, value=shown(table), allowed=allowed, source=source(section)))
        else:
            for name, raw in table.items():
                key = f"{section}.{name}"
                try:
                    field = _known(key, known, source(key)).field
                    _refuse_unknown_in_tables(key, field, raw, source)
                    values[key] = Value(_checked(key, field, raw, source, textual=False), source(key))
                except SettingsError as error:
                    refuse(error)
    return values


def from_environment(
    environ: Mapping[str, str], sections: Sections, plain: Mapping[str, str], refuse: Refuse
) -> dict[str, Value]:
    """Read the settings of the environment; lists are comma separated, an empty value counts as not given.

    An empty value of a list is an empty list, so that a default list can be switched off.

    Args:
        environ: the environment.
        sections: the known sections by name.
        plain: environment names that work without the prefix, by full name of the setting.
        refuse: gets a `TRUNKLINE_` name that is no setting, or a value that does not fit.
    """
    known = variables(sections, plain)
    by_name = {name: variable for variable in known.values() for name in variable.environment}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in by_name or name == CONFIG_VARIABLE:
            continue
        if not (_SERVICE_LINK.search(name) or _SERVICE_LINK_VALUE.match(environ[name])):
            near = nearest(name, by_name)
            refuse(SettingsError(name, allowed="there is no such setting", nearest=near, source="environment"))
    values: dict[str, Value] = {}
    for key, variable in known.items():
        for name in variable.environment:
            if _given(name, environ, variable.field):
                try:
                    source = f"environment {name}"
                    values[key] = Value(_from_text(key, variable.field, environ[name], source), source)
                except SettingsError as error:
                    refuse(error)
                break
    return values


def _given(name: str, environ: Mapping[str, str], field: Field) -> bool:
    raw = environ.get(name)
    if raw is None or (raw == "" and not field.is_list):
        return False
    return not (name.startswith(PREFIX) and name.endswith("_PORT") and _SERVICE_LINK_VALUE.match(raw))


def from_flags(flags: Mapping[str, object], sections: Sections, refuse: Refuse) -> dict[str, Value]:
    """Read settings given on the command line, by full name; None means not given.

    Args:
        flags: the values.
        sections: the known sections by name.
        refuse: gets a name that is no setting, or a value that does not fit.
    """
    known = variables(sections, {})
    values: dict[str, Value] = {}
    for key, raw in flags.items():
        if raw is None:
            continue
        given = str(raw) if isinstance(raw, Path) else raw
        try:
            field = _known(key, known, "command line").field
            if isinstance(given, str):
                value = _from_text(key, field, given, "command line")
            else:
                value = _checked(key, field, given, "command line", textual=False)
            values[key] = Value(value, "command line")
        except SettingsError as error:
            refuse(error)
    return values


def _known(key: str, known: Mapping[str, Variable], source: str) -> Variable:
    if key not in known:
        raise SettingsError(key, allowed="there is no such setting", nearest=nearest(key, known), source=source)
    return known[key]


def _from_text(key: str, field: Field, text: str, source: str) -> object:
    """A value of a source that knows only text; a list of tables is JSON there."""
    if field.item is None or not text.lstrip().startswith("["):
        return _checked(key, field, text, source, textual=True)
    try:
        tables = msgspec.json.decode(text)
    except ValueError as error:
        raise SettingsError(key, allowed=f"it is not valid JSON: {error}", source=source) from None
    _refuse_unknown_in_tables(key, field, tables, lambda _: source)
    return _checked(key, field, tables, source, textual=False)


def _checked(key: str, field: Field, raw: object, source: _Source, *, textual: bool) -> object:
    try:
        return field.convert(raw, textual=textual)
    except (ValueError, TypeError) as error:
        missing = _MISSING.search(str(error))
        if missing is not None:
            key = f"{key}[{missing[2]}].{missing[1]}"
            where = source if isinstance(source, str) else source(key)
            raise SettingsError(key, allowed="it is missing, and needed", source=where) from None
        item, place = field.item, _PLACE.search(str(error))
        if item is not None and place is not None and isinstance(raw, list):
            # One field of one table does not fit: the message is about that, not about the whole list.
            index, name = int(place[1]), place[2]
            key, raw, field = f"{key}[{index}].{name}", raw[index].get(name), Field.of(item, name)
        allowed = f"allowed: {field.allowed}"
        raise SettingsError(
            key, value=field.shown(raw), allowed=allowed, source=source if isinstance(source, str) else source(key)
        ) from None


def _refuse_unknown_in_tables(key: str, field: Field, raw: object, source: Callable[[str], str]) -> None:
    if field.item is None or not isinstance(raw, list):
        return
    names = field.item.__struct_fields__
    for index, table in enumerate(raw):
        for name in table if isinstance(table, dict) else ():
            if name not in names:
                full = f"{key}[{index}].{name}"
                allowed = f"there is no such key; a table of {key} has {', '.join(names)}"
                raise SettingsError(full, allowed=allowed, nearest=nearest(name, names), source=source(full))
