"""The scenario of a command line: a built-in one or a file, at the size and in the protocol that its options say."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from msgspec.structs import replace

from trunkline.errors import SettingsError
from trunkline.load.model.plan import Protocol, Scenario
from trunkline.load.scenario.file import NAMES, LoadedScenario, load_builtin, load_scenario
from trunkline.load.scenario.scaling import Size, drops, scaled

_SUDDEN = frozenset({"spike", "fall"})
"""Names of stages of the built-in scenarios that a longer run does not stretch."""


def choose(name: str, size: Size, protocol: str = "auto") -> LoadedScenario:
    """Find a built-in scenario or a file, and lay options over it; raises SettingsError when one does not fit."""
    if name in NAMES:
        loaded = LoadedScenario(builtin(name, size), "")
    else:
        scenario, source = load_scenario(Path(name))
        loaded = LoadedScenario(scaled(scenario, size), source)
    return loaded._replace(scenario=replace(loaded.scenario, protocol=_protocol(protocol, loaded.scenario.protocol)))


def builtin(name: str, size: Size) -> Scenario:
    """A built-in scenario at the wanted size; raises SettingsError when a size is out of range."""
    scenario = scaled(load_builtin(name), size, _SUDDEN)
    return replace(scenario, disturbances=drops(scenario.duration_s)) if name == "replay" else scenario


def describe() -> list[tuple[str, str]]:
    """Each built-in scenario's name and what it is for, in one sentence."""
    return [(name, load_builtin(name).description) for name in NAMES]


def _protocol(wanted: str, own: Protocol) -> Protocol:
    if wanted == "auto":
        return own
    if wanted not in ("echo", "feed"):
        allowed = "allowed: auto, echo or feed"
        if wanted in get_args(Protocol):
            allowed += "; steps and python come from a scenario file"
        raise SettingsError("--protocol", value=wanted, allowed=allowed)
    if own not in ("auto", wanted):
        raise SettingsError("--protocol", value=wanted, allowed=f"this scenario speaks {own} and nothing else")
    return "echo" if wanted == "echo" else "feed"
