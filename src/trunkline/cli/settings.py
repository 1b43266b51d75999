"""The settings of a command: the option that names their file, and reading them with the flags laid over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trunkline.settings.load import Loaded

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file; default: trunkline.toml.")]
"""Of commands that run something."""

ExaminedFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default: TRUNKLINE_CONFIG, or trunkline.toml.")
]
"""Of commands that check settings or render files from them."""


def loaded(config_file: Path | None, flags: Mapping[str, object] | None = None) -> Loaded:
    """The settings of file, environment and flags, the later wins; raises SettingsError."""
    from trunkline.settings.load import load

    return load(config_file, os.environ, flags or {})
