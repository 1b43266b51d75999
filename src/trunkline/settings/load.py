"""`load`: the settings of a process, from defaults, file, environment and flags; and what each of them is."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from trunkline.errors import SettingsError, SettingsErrors
from trunkline.settings.reading import source
from trunkline.settings.reading.check import each, together
from trunkline.settings.reloaded import RELOADED
from trunkline.settings.secret import MASK, Secret, mask_url
from trunkline.settings.sections import PLAIN_ENVIRONMENT, SECTIONS, Settings

DEFAULT_FILE = "trunkline.toml"


NOTES: Final = {"balancer.groups": "counts until a traffic table is written (/api/traffic)"}
"""What a reader of `config show` must know of a setting beside its value."""


class ShownSetting(NamedTuple):
    """A row of `config show`: full name, value ready for JSON (secrets masked), source, and a note if it needs one."""

    key: str
    value: object
    source: str
    note: str = ""


class SettingHelp(NamedTuple):
    """A row of the settings reference: full name, what is allowed, default as text, environment names, help, reload.

    `reload` says for whom a reload changes it, empty for a setting that takes a restart.
    """

    key: str
    allowed: str
    default: str
    environment: tuple[str, ...]
    help: str
    reload: str


class Loaded(NamedTuple):
    """Settings, the source of each by full name (`default` when none set it), and the TOML file that was read."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None

    def rows(self) -> list[ShownSetting]:
        """Every setting with its value and source, secrets masked."""
        return [
            ShownSetting(
                key, _presentable(operator.attrgetter(key)(self.settings)), self.sources[key], NOTES.get(key, "")
            )
            for key in source.variables(SECTIONS, {})
        ]


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Read the settings: defaults, then the TOML file, then the environment, then flags; the later wins.

    Args:
        file: the TOML file; None reads the one that `TRUNKLINE_CONFIG` names or else `trunkline.toml` of the working
            directory if there is one.
        environ: the environment.
        flags: values of the command line by full name, e.g. `{"server.port": 3002}`; None means not given.

    Raises:
        SettingsError: a file that cannot be read, an unknown name, a bad value, or values that exclude each other;
            SettingsErrors when it is more than one.
    """
    path = _file_to_read(file, environ)
    values: dict[str, source.Value] = {}
    errors: list[SettingsError] = []
    if path is not None:
        values |= source.from_toml(_read(path), str(path), SECTIONS, errors.append)
    values |= source.from_environment(environ, SECTIONS, PLAIN_ENVIRONMENT, errors.append)
    values |= source.from_flags(flags, SECTIONS, errors.append)
    known = source.variables(SECTIONS, PLAIN_ENVIRONMENT)
    given: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in values.items():
        given[known[key].section][known[key].field.name] = value.value
    sections: dict[str, Any] = {section: SECTIONS[section](**fields) for section, fields in given.items()}
    settings = Settings(**sections)
    sources = {key: values[key].source if key in values else "default" for key in known}
    errors += each(settings)
    errors += together(settings) if not errors else ()
    for error in errors:
        error.source = error.source or sources.get(error.key.partition("[")[0], "")
    if errors:
        raise errors[0] if len(errors) == 1 else SettingsErrors(errors)
    return Loaded(settings, sources, path)


def describe() -> list[SettingHelp]:
    """Every setting with what it takes, its default and its help; the settings reference is made from it."""
    rows: list[SettingHelp] = []
    for key, (section, field, environment) in source.variables(SECTIONS, PLAIN_ENVIRONMENT).items():
        default = _presentable(getattr(SECTIONS[section](), field.name))
        shown = "" if default is None else msgspec.json.encode(default).decode()
        reloaded = RELOADED[key].text if key in RELOADED else ""
        rows.append(SettingHelp(key, field.allowed, shown, environment, field.help, reloaded))
    return rows


def _file_to_read(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    named = environ.get(source.CONFIG_VARIABLE)
    if named:
        return Path(named)
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(str(path), allowed="it is not UTF-8 text; TOML must be") from None
    except OSError as error:
        raise SettingsError(str(path), allowed=f"the file cannot be read: {error.strerror}") from None


def _presentable(value: object) -> object:
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, tuple):
        return [_presentable(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {name: _presentable(getattr(value, name)) for name in value.__struct_fields__}
    return value
