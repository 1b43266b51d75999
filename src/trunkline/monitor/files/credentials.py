"""Grafana's admin user and password: from files, from Vault, or made; kept in files that only this user can read.

Rules:

- A password is never printed, logged or rendered; errors name files and paths in Vault, not what they hold.
- What is kept already stays, unless the settings name another source: Grafana takes the password at its first start
  only, so a new one would just be wrong.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from trunkline.errors import StartError
from trunkline.monitor.files import vault
from trunkline.process.whole_files import read_stripped, replace_file
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.secret import Secret

USER_FILE: Final = "grafana_admin_user"
VAULT_KEYS: Final = ("admin_user", "admin_password")
PASSWORD_FILE: Final = "grafana_admin_password"  # noqa: S105 - the name of a file
DIRECTORY: Final = "secrets"
"""Within the directory of the rendered files; never rendered, never compared."""


class Credentials(NamedTuple):
    """Grafana's admin.

    Attributes:
        user: the name.
        password: never shown.
    """

    user: Secret
    password: Secret


def keep(
    directory: Path, settings: MonitorSettings, environ: Mapping[str, str], warn: Callable[[str], None]
) -> list[Path]:
    """Write the credentials into `directory`/secrets.

    Args:
        directory: that of the rendered files; made when missing.
        settings: where the credentials come from.
        environ: the environment, for Vault's own variables.
        warn: is called with what an operator has to do soon, though all went well.

    Returns:
        The files that hold them.

    Raises:
        StartError: a source or the directory cannot be used.
        SettingsError: settings that cannot be meant.
    """
    place = directory / DIRECTORY
    user, password = place / USER_FILE, place / PASSWORD_FILE
    made_here = settings.grafana_credentials == "file" and settings.grafana_password_file is None
    if made_here and password.is_file():
        found = Credentials(_from_files(settings, "").user, Secret(_read(password, "the kept password")))
    elif settings.grafana_credentials == "file":
        found = _from_files(settings, secrets.token_urlsafe(24))
    else:
        found = Credentials(*vault.read_texts(settings, environ, VAULT_KEYS, warn))
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.chmod(0o700)
        replace_file(user, found.user.reveal().encode())
        replace_file(password, found.password.reveal().encode())
        # Whoever keeps the rendered files in git does not keep these.
        replace_file(place / ".gitignore", b"*\n")
    except OSError as error:
        raise StartError(
            f"{place} cannot be written: {error.strerror}", "Name a directory that can be written."
        ) from None
    return [user, password]


def _from_files(settings: MonitorSettings, made: str) -> Credentials:
    user, password = settings.grafana_user_file, settings.grafana_password_file
    return Credentials(
        Secret(_read(user, "monitor.grafana_user_file") if user else "admin"),
        Secret(_read(password, "monitor.grafana_password_file") if password else made),
    )


def _read(path: Path, setting: str) -> str:
    text = read_stripped(path, setting)
    if not text:
        raise StartError(f"{path} is empty", f"Check {setting}.")
    return text
