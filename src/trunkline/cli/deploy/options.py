"""What the commands of `trunkline deploy` have in common: their options, and how these are read."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from trunkline.cli.settings import loaded
from trunkline.errors import SettingsError

if TYPE_CHECKING:
    from trunkline.load.scenario.comparison import Threshold
    from trunkline.settings.load import Loaded

_COLOUR: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,58}")

Balancers = Annotated[
    list[str] | None,
    typer.Option("--balancer", metavar="URL", help="Admin address of a balancer; can be given again."),
]
Bus = Annotated[str | None, typer.Option(help="nats://… of the fleet; default: bus.url, or that of `trunkline up`.")]
EdgeUrl = Annotated[
    str | None, typer.Option("--edge", metavar="URL", help="ws:// or wss:// address that clients connect to.")
]
DataDir = Annotated[Path | None, typer.Option(help="That of `trunkline up`; default: .trunkline.")]
TokenOf = Annotated[Path | None, typer.Option("--token-file", help="File with a bearer token for the witnesses.")]
Ca = Annotated[Path | None, typer.Option(help="Certificates to trust instead of the system's.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Take any certificate.")]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold", metavar="CONDITION", help="What must hold, such as 'away_p99<=2s'; can be given again."
    ),
]
Html = Annotated[Path | None, typer.Option(help="Write the verdict as one HTML page.")]
Junit = Annotated[Path | None, typer.Option(help="Write the verdict as JUnit XML.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def colour_of(text: str) -> str:
    """A colour that nodes of `trunkline up` can have too: they are called by it and a number; raises SettingsError."""
    if not _COLOUR.fullmatch(text):
        raise SettingsError("COLOUR", value=text, allowed="1 to 59 letters, digits, '.', '_' and '-'")
    return text


def seconds_of(option: str, text: str) -> float:
    """A length of time, 0 among them; raises SettingsError."""
    from trunkline.settings.quantities import seconds

    found = seconds(text)
    if found is None or found < 0:
        raise SettingsError(option, value=text, allowed="a length of time such as 0s, 30s, 10m or 1h")
    return found


def thresholds_of(texts: list[str] | None) -> tuple[Threshold, ...]:
    """The conditions of --threshold; raises SettingsError."""
    from trunkline.deploy.verdict.thresholds import parse

    return tuple(parse(text) for text in texts or ())


def settings_of(config_file: Path | None, bus: str | None, data_dir: Path | None) -> Loaded:
    """The settings; warnings go to standard error, for standard output carries the result alone."""
    found = loaded(config_file, {"bus.url": bus, "up.data_dir": data_dir})
    log_to(found, sys.stderr)
    return found


def log_to(loaded: Loaded, stream: TextIO) -> None:
    """Have log lines written there, warnings alone unless the settings name a level."""
    from msgspec.structs import replace

    from trunkline.logs import configure as log_setup

    log = loaded.settings.log
    if loaded.sources["log.level"] == "default":
        log = replace(log, level="warning")
    log_setup.configure(log, service="trunkline-deploy", stream=stream)
