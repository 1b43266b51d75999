"""Scenarios from files: TOML, or Python for message flows of the user's own.

Rules:

- Keys are those of `plan.py` without their unit: `duration = "30s"` or `duration = 30` for `duration_s`.
- Whatever is not known or does not fit stops with a `SettingsError` that names file, line, field and what is allowed;
  a typing error must not become a default.
- A Python file is parsed here and not run: the workers run it. Its `SCENARIO` is a literal.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import FieldInfo

from trunkline.errors import SettingsError
from trunkline.load.model.expectations import Expectation
from trunkline.load.model.plan import Disturbance, Scenario, Stage, Step, Traffic
from trunkline.load.scenario import thresholds
from trunkline.settings.fields import Field
from trunkline.settings.reading.spelling import nearest
from trunkline.settings.reading.toml_places import Place, dotted, toml_places

NAMES = ("hold", "ramp", "stress", "spike", "soak", "storm", "slow", "abuse", "replay")
"""The built-in scenarios, which are files too."""

DEFAULT = "hold"  # the scenario of a run that does not name one
MAX_BYTES = 512 << 10  # longest scenario file
_TABLES: dict[str, type[msgspec.Struct]] = {"traffic": Traffic}
_LISTS: dict[str, type[msgspec.Struct]] = {"stages": Stage, "disturbances": Disturbance, "steps": Step}

_MOST_STAGES = 1000
_S = TypeVar("_S", bound=msgspec.Struct)


class LoadedScenario(NamedTuple):
    """A scenario, and the text of the Python file that it came from, else empty."""

    scenario: Scenario
    flow_source: str


def load_scenario(path: Path) -> LoadedScenario:
    """Read a `.toml` or `.py` file, which is not run; raises SettingsError when something in it cannot be used."""
    file = str(path)
    kind = path.suffix.lower()
    if kind not in (".toml", ".py"):
        allowed = f"one of {', '.join(NAMES)}, or a file that ends in .toml or .py"
        raise SettingsError("--scenario", value=file[:200], allowed=allowed, nearest=nearest(file.lower(), NAMES))
    text = _read(path)
    scenario = _of_python(text, path) if kind == ".py" else _of_toml(text, path)
    return LoadedScenario(scenario, text if kind == ".py" else "")


def load_builtin(name: str) -> Scenario:
    """A built-in scenario as its file has it."""
    return load_scenario(Path(__file__).with_name("stock") / f"{name}.toml").scenario


def _read(path: Path) -> str:
    file = str(path)
    try:
        if path.exists() and not path.is_file():
            # A pipe would be waited for, a device never ends.
            raise SettingsError("scenario", value=file, allowed="it must be a plain file")
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        allowed = "there is no such file" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
        raise SettingsError("scenario", value=file, allowed=allowed) from None
    if len(content) > MAX_BYTES:
        raise SettingsError("scenario", value=file, allowed=f"a scenario file has at most {MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError("scenario", allowed="it must be UTF-8 text", source=f"{file} line {line}") from None


def _of_toml(text: str, path: Path) -> Scenario:
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        source, why = _toml_fault(str(error), text, path)
        raise SettingsError("scenario", allowed=f"it is not valid TOML: {why}", source=source) from None
    reader = _Reader(str(path), toml_places(text))
    protocol = table.get("protocol")
    if isinstance(protocol, str) and protocol.strip().lower() == "python":
        raise reader.error(("protocol",), protocol, 'a flow in Python is a file of its own that ends in ".py"')
    if "stages" not in table:
        raise reader.error(("stages",), None, "a scenario needs at least one stage, written [[stages]]")
    defaults = {"name": path.stem[:40], "protocol": "steps" if table.get("steps") else "auto"}
    scenario = reader.table(Scenario, table, defaults=defaults, without=("flow",))
    reader.check(scenario)
    return scenario


def _toml_fault(why: str, text: str, path: Path) -> tuple[str, str]:
    """Where TOML is malformed, and how: the parser puts the line into its message."""
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", why)
    if found is None:
        return str(path), why
    line = int(found[1]) if found[1] else len(text.splitlines()) or 1
    return f"{path} line {line}", why[: found.start()] + ("" if found[1] else " at the end")


def _of_python(text: str, path: Path) -> Scenario:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # running the file shows them anyway
            body = ast.parse(text, str(path)).body
    except SyntaxError as error:
        source = f"{path} line {error.lineno}" if error.lineno else str(path)
        raise SettingsError("scenario", allowed=f"it is not valid Python: {error.msg}", source=source) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SettingsError("scenario", allowed=f"it is not valid Python: {error}", source=str(path)) from None
    _check_flow(body, path)
    literal = _literal(body)
    table: object = {}
    places: dict[Place, int] = {}
    if literal is not None:
        _python_places(literal, (), places)
        try:
            table = ast.literal_eval(literal)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise SettingsError(
                "SCENARIO", allowed="it must be written out: a dict of texts, numbers, true, lists and dicts",
                source=f"{path} line {literal.lineno}",
            ) from None  # fmt: skip
    reader = _Reader(str(path), places)
    defaults = {"name": path.stem[:40], "stages": load_builtin(DEFAULT).stages, "protocol": "python", "flow": path.name}
    scenario = reader.table(Scenario, table, defaults=defaults, without=("protocol", "flow", "steps"))
    reader.check(scenario)
    return scenario


def _check_flow(body: list[ast.stmt], path: Path) -> None:
    form = "a flow is written as: async def flow(session):"
    functions = [each for each in body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = next((each for each in reversed(functions) if each.name == "flow"), None)
    if found is None:
        raise SettingsError("flow", allowed=f"the file defines none; {form}", source=str(path))
    source = f"{path} line {found.lineno}"
    if isinstance(found, ast.FunctionDef):
        raise SettingsError("flow", allowed=f"it must be async; {form}", source=source)
    takes = found.args
    names = len(takes.posonlyargs) + len(takes.args)
    needed = names - len(takes.defaults) + sum(default is None for default in takes.kw_defaults)
    if needed > 1 or not (names or takes.vararg):
        raise SettingsError("flow", allowed=f"it is called with one argument, the session; {form}", source=source)


def _literal(body: list[ast.stmt]) -> ast.expr | None:
    """The value of the file's last assignment to SCENARIO, if there is one."""
    found = None
    for statement in body:
        match statement:
            case ast.Assign(targets=targets, value=value) if any(map(_is_scenario, targets)):
                found = value
            case ast.AnnAssign(target=target, value=value) if _is_scenario(target):
                found = value
    return found


def _is_scenario(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "SCENARIO"


def _python_places(node: ast.expr, place: Place, into: dict[Place, int]) -> None:
    into.setdefault(place, node.lineno)
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                into[(*place, key.value)] = key.lineno
                _python_places(value, (*place, key.value), into)
    elif isinstance(node, (ast.List, ast.Tuple)):
        for index, item in enumerate(node.elts):
            _python_places(item, (*place, index), into)


class _Reader:
    """Turns the tables of one file into a scenario; errors name the line of the place that is wrong."""

    def __init__(self, file: str, places: Mapping[Place, int]) -> None:
        self._file = file
        self._places = places

    def error(self, place: Place, value: object, allowed: str, near: str | None = None) -> SettingsError:
        """An error at a place; a place that is not written is on the line of what should hold it."""
        lines = (self._places.get(place[:end]) for end in range(len(place), -1, -1))
        line = next((line for line in lines if line is not None), None)
        source = self._file if line is None else f"{self._file} line {line}"
        shown = value if isinstance(value, str) or value is None else repr(value)
        return SettingsError(
            dotted(place) or "SCENARIO", value=shown and shown[:200], allowed=allowed, nearest=near, source=source
        )

    def table(
        self, kind: type[_S], raw: object, place: Place = (), *, defaults: Mapping[str, object] | None = None,
        without: Collection[str] = (),
    ) -> _S:  # fmt: skip
        """A struct of the table at a place; `defaults` stand for absent fields, `without` cannot be given here."""
        if not isinstance(raw, Mapping):
            raise self.error(place, raw, "it must be a table")
        fields = {_file_key(field.name): field for field in msgspec.structs.fields(kind) if field.name not in without}
        values = dict(defaults or {})
        for key, given in raw.items():
            field = fields.get(key)
            if field is None:
                known = f"there is no such key; known here: {', '.join(fields)}"
                raise self.error((*place, str(key)), None, known, nearest(str(key).lower(), fields))
            values[field.name] = self._value(field, given, (*place, key))
        for key, field in fields.items():
            if field.required and field.name not in values:
                raise self.error((*place, key), None, f"it is missing; allowed: {_allowed(field)}")
        return kind(**values)

    def check(self, scenario: Scenario) -> None:
        """Refuse values that are valid by themselves and not together."""
        if scenario.peak == 0:
            raise self.error(("stages",), None, "no stage has any connections")
        if scenario.duration_s == 0:
            raise self.error(("stages",), None, "the stages take no time; at least one needs a duration above 0")
        for index, disturbance in enumerate(scenario.disturbances):
            if disturbance.at_s >= scenario.duration_s:
                allowed = f"the stages end after {scenario.duration_s:g} s; it must be before that"
                raise self.error(("disturbances", index, "at"), f"{disturbance.at_s:g} s", allowed)
        if scenario.steps and scenario.protocol != "steps":
            allowed = 'with [[steps]] it is "steps", or left out'
            raise self.error(("protocol",), scenario.protocol, allowed)
        if scenario.protocol == "steps" and not scenario.steps:
            raise self.error(("protocol",), "steps", "it needs at least one step, written [[steps]]")
        for index, threshold in enumerate(scenario.thresholds):
            try:
                thresholds.parse(threshold)
            except SettingsError as error:
                raise self.error(("thresholds", index), threshold, error.allowed, error.nearest) from None
        for index, step in enumerate(scenario.steps):
            try:
                Expectation(step.expect)
            except ValueError as error:
                raise self.error(("steps", index, "expect"), step.expect, str(error)) from None

    def _value(self, field: FieldInfo, given: object, place: Place) -> object:
        if field.name in _TABLES:
            return self.table(_TABLES[field.name], given, place)
        if field.name in _LISTS:
            if not isinstance(given, (list, tuple)):
                raise self.error(place, given, f"it must be a list of tables, each written [[{field.name}]]")
            given = [self.table(_LISTS[field.name], item, (*place, index)) for index, item in enumerate(given)]
            if field.name == "stages" and not 1 <= len(given) <= _MOST_STAGES:
                raise self.error(place, None, f"there must be 1 to {_MOST_STAGES:,} stages, not {len(given):,}")
            return tuple(given)
        try:
            value = Field(field.name, field.type).convert(given, textual=False)
        except (ValueError, OverflowError) as error:  # msgspec's errors are ValueErrors too
            item = re.search(r"\$\[(\d+)\]", str(error))
            if item and isinstance(given, (list, tuple)):
                place, given = (*place, int(item[1])), given[int(item[1])]
                raise self.error(place, given, "allowed: text") from None
            raise self.error(place, given, f"allowed: {_allowed(field)}") from None
        if isinstance(value, float) and not math.isfinite(value):
            # Bounds let a nan pass.
            raise self.error(place, given, f"allowed: {_allowed(field)}")
        return value


def _file_key(name: str) -> str:
    return name if name.endswith("_per_s") else name.removesuffix("_s")


def _allowed(field: FieldInfo) -> str:
    """What a field takes, for messages."""
    if field.name in _TABLES:
        return f"a table, written [{field.name}]"
    if field.name in _LISTS:
        return f"a list of tables, each written [[{field.name}]]"
    return Field(field.name, field.type).allowed
