"""Alertmanager's file with the webhook URLs in it: an Alertmanager before 0.26 reads no URL from a file.

Rule: the text holds secrets. It goes into a file that only this user can read, and not beside the rendered files.
"""

from __future__ import annotations

from pathlib import Path

from trunkline.errors import StartError
from trunkline.monitor.files.alertmanager import alertmanager_yaml, url_files
from trunkline.monitor.files.secret_paths import SecretFile
from trunkline.process.whole_files import read_stripped
from trunkline.settings.monitor import MonitorSettings


def with_urls(settings: MonitorSettings) -> str:
    """As `alertmanager_yaml`, but each URL file is read now.

    Args:
        settings: the section.

    Raises:
        StartError: a file cannot be read, or holds no URL.
    """
    return alertmanager_yaml(settings, {file.seen: _url(file) for file in url_files(settings)})


def _url(file: SecretFile) -> str:
    setting = f"monitor.{file.name}_file"
    url = read_stripped(Path(file.host), setting)
    if not url.startswith(("http://", "https://")) or len(url.split()) != 1:
        raise StartError(f"{file.host} holds no http:// or https:// URL", f"Check {setting}.")
    return url
