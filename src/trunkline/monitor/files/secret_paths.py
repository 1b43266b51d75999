"""Where a program of the monitoring reads a secret: rendered files hold the path, never the secret. Pure.

In a container that is `/run/secrets/<name>`, where Compose mounts the operator's file.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trunkline.errors import SettingsError
from trunkline.settings.monitor import MonitorSettings


class SecretFile(NamedTuple):
    """A file of the operator's that one program reads.

    Attributes:
        name: in Compose.
        host: where the operator keeps it.
        seen: where the program sees it.
    """

    name: str
    host: str
    seen: str


def secret_file(settings: MonitorSettings, setting: str) -> SecretFile | None:
    """The file that a setting of [monitor] names, None when it names none.

    Args:
        settings: the section.
        setting: name of a field that ends in `_file`.

    Raises:
        SettingsError: the path is relative, so each program would look for it elsewhere.
    """
    path: Path | None = getattr(settings, setting)
    if path is None:
        return None
    if not path.is_absolute():
        allowed = "it must be an absolute path, for the program that reads it has another working directory"
        raise SettingsError(f"monitor.{setting}", value=str(path), allowed=allowed)
    name = setting.removesuffix("_file")
    return SecretFile(name, str(path), f"/run/secrets/{name}" if settings.compose else str(path))
