"""Grafana's admin user and password: from files, from Vault, or made; kept in files that only this user can read.

Rules:

- A password is never printed, logged or rendered; errors name files and paths in Vault, not what they hold.
- What is kept already stays, unless the settings name another source: Grafana takes the password at its first start
  only, so a new one would just be wrong.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from trunkline.errors import SettingsError, StartError
from trunkline.process.whole_files import read_stripped, replace_file
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.secret import Secret, mask_url

USER_FILE: Final = "grafana_admin_user"
PASSWORD_FILE: Final = "grafana_admin_password"  # noqa: S105 - the name of a file
DIRECTORY: Final = "secrets"
"""Within the directory of the rendered files; never rendered, never compared."""

_VAULT_TIMEOUT_S: Final = 10


class Credentials(NamedTuple):
    """Grafana's admin.

    Attributes:
        user: the name.
        password: never shown.
    """

    user: str
    password: Secret


def keep(directory: Path, settings: MonitorSettings, environ: Mapping[str, str]) -> list[Path]:
    """Write the credentials into `directory`/secrets.

    Args:
        directory: that of the rendered files; made when missing.
        settings: where the credentials come from.
        environ: the environment, for VAULT_ADDR and VAULT_TOKEN.

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
        found = from_vault(settings, environ)
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.chmod(0o700)
        replace_file(user, found.user.encode())
        replace_file(password, found.password.reveal().encode())
        # Whoever keeps the rendered files in git does not keep these.
        replace_file(place / ".gitignore", b"*\n")
    except OSError as error:
        raise StartError(
            f"{place} cannot be written: {error.strerror}", "Name a directory that can be written."
        ) from None
    return [user, password]


def from_vault(settings: MonitorSettings, environ: Mapping[str, str]) -> Credentials:
    """Read `admin_user` and `admin_password` of a secret in Vault's key-value store, version 2.

    Args:
        settings: address, token file and path.
        environ: VAULT_ADDR and VAULT_TOKEN stand in for the first two, as for Vault's own command.
    """
    url = settings.vault_url or environ.get("VAULT_ADDR", "")
    if not url:
        raise SettingsError("monitor.vault_url", allowed="it says where Vault is; set it, or VAULT_ADDR")
    mount, _, path = settings.vault_path.strip("/").partition("/")
    if not mount or not path:
        allowed = "allowed: mount/path, such as secret/trunkline/grafana"
        raise SettingsError("monitor.vault_path", value=settings.vault_path, allowed=allowed)
    token = _vault_token(settings, environ)
    try:
        import hvac  # type: ignore[import-untyped]
        import requests
        from hvac.exceptions import Forbidden, InvalidPath, VaultError  # type: ignore[import-untyped]
    except ImportError:
        raise StartError("hvac is not installed, which reads Vault", "pip install 'trunkline[monitor]'") from None
    where = f"{mount}/{path} in Vault at {mask_url(url)}"
    client = hvac.Client(
        url=url,
        token=token.reveal(),
        timeout=_VAULT_TIMEOUT_S,
        verify=environ.get("VAULT_CACERT", True),
        namespace=environ.get("VAULT_NAMESPACE"),
        # A redirect would carry the token to wherever it points.
        allow_redirects=False,
    )
    try:
        answer = client.secrets.kv.v2.read_secret_version(path=path, mount_point=mount, raise_on_deleted_version=True)
        values = answer["data"]["data"]
    except Forbidden:
        raise StartError(f"the token may not read {where}", "Check its policy and whether it has expired.") from None
    except InvalidPath:
        raise StartError(f"there is no {where}", "Check monitor.vault_path; it needs KV version 2.") from None
    except (VaultError, requests.RequestException, KeyError, TypeError, ValueError) as error:
        why = type(error).__name__
        raise StartError(f"{where} cannot be read ({why})", "Check monitor.vault_url and Vault itself.") from None
    finally:
        client.adapter.close()
    missing = [name for name in ("admin_user", "admin_password") if not _is_word(values, name)]
    if missing:
        raise StartError(f"{where} has no text under {' and '.join(missing)}", "Write both into the secret.")
    return Credentials(values["admin_user"], Secret(values["admin_password"]))


def _is_word(values: object, name: str) -> bool:
    return isinstance(values, dict) and isinstance(values.get(name), str) and bool(values[name].strip())


def _vault_token(settings: MonitorSettings, environ: Mapping[str, str]) -> Secret:
    if settings.vault_token_file is not None:
        return Secret(_read(settings.vault_token_file, "monitor.vault_token_file"))
    if environ.get("VAULT_TOKEN"):
        return Secret(environ["VAULT_TOKEN"])
    # Where `vault login` leaves it.
    home = environ.get("HOME")
    if home and (usual := Path(home) / ".vault-token").is_file():
        return Secret(_read(usual, "monitor.vault_token_file"))
    raise SettingsError("monitor.vault_token_file", allowed="Vault wants a token; set it, or VAULT_TOKEN")


def _from_files(settings: MonitorSettings, made: str) -> Credentials:
    user, password = settings.grafana_user_file, settings.grafana_password_file
    return Credentials(
        _read(user, "monitor.grafana_user_file") if user else "admin",
        Secret(_read(password, "monitor.grafana_password_file") if password else made),
    )


def _read(path: Path, setting: str) -> str:
    text = read_stripped(path, setting)
    if not text:
        raise StartError(f"{path} is empty", f"Check {setting}.")
    return text
