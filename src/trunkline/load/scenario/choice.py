"""The scenario of a command line: a built-in one or a file, at the size and in the protocol that its options say."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from msgspec.structs import replace

from trunkline.errors import SettingsError
from trunkline.load.model.plan import Protocol
from trunkline.load.scenario.builtin import NAMES, builtin, scaled
from trunkline.load.scenario.file import LoadedScenario, load_scenario

MESSAGE_BYTES = (40, 16 << 20)


def choose(
    name: str, *, connections: int | None = None, duration_s: float | None = None, rate: float | None = None,
    rate_each: float | None = None, message_bytes: int | None = None, channels: int | None = None,
    protocol: str = "auto",
) -> LoadedScenario:  # fmt: skip
    """Find a scenario and lay options over it; what is None stays as the scenario says.

    Args:
        name: of a built-in scenario, or of a file.
        connections: greatest count, see `scenarios.scaled`.
        duration_s: in all.
        rate: messages a second over all connections.
        rate_each: messages a second of each.
        message_bytes: length of a message.
        channels: how many a feed uses.
        protocol: auto, echo or feed.

    Raises:
        SettingsError: there is no such scenario, or an option does not fit it.
    """
    if name in NAMES:
        scenario = builtin(name, connections=connections, duration_s=duration_s, rate=rate, rate_each=rate_each)
        source = ""
    else:
        loaded = load_scenario(Path(name))
        source = loaded.flow_source
        scenario = scaled(
            loaded.scenario, connections=connections, duration_s=duration_s, rate=rate, rate_each=rate_each
        )
    traffic = scenario.traffic
    if message_bytes is not None:
        least, most = MESSAGE_BYTES
        if not least <= message_bytes <= most:
            raise SettingsError("--message-bytes", value=str(message_bytes), allowed=f"allowed: {least} to {most}")
        traffic = replace(traffic, message_bytes=message_bytes)
    if channels is not None:
        if not 0 <= channels <= 1_000_000:
            raise SettingsError("--channels", value=str(channels), allowed="allowed: 0 to 1000000")
        traffic = replace(traffic, channels=channels)
    return LoadedScenario(replace(scenario, traffic=traffic, protocol=_protocol(protocol, scenario.protocol)), source)


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
