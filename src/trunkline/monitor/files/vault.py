"""Texts of one secret in Vault, or OpenBao: KV version 2, read with a token or by AppRole.

Rules:

- Neither a token nor what a secret holds is in an error; errors name addresses and paths, and the next step.
- Certificates are always verified; VAULT_CACERT names an authority of one's own. A redirect is not followed, for it
  would take the token along.
- A token that AppRole gave is revoked at the end. One of the operator's is renewed once less than half its life is
  left, so that a timer which runs the command keeps it alive; where that does not help, the operator is warned in time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trunkline.errors import SettingsError, StartError
from trunkline.process.whole_files import read_stripped
from trunkline.settings.monitor import MonitorSettings
from trunkline.settings.secret import Secret, mask_url

if TYPE_CHECKING:
    from hvac import Client  # type: ignore[import-untyped]

_TIMEOUT_S: Final = 10
_WHY_NO_TRUST: Final = re.compile(r"certificate verify failed: ([^(]+)")


class _Place(NamedTuple):
    """Where the secret is: `mount` of the store and `path` within it."""

    url: str
    mount: str
    path: str

    @property
    def vault(self) -> str:
        return f"Vault at {mask_url(self.url)}"

    def __str__(self) -> str:
        return f"{self.mount}/{self.path} in {self.vault}"


class _AppRole(NamedTuple):
    """Logs in by a role; `mount` is where AppRole is enabled."""

    role_id: str
    secret_id: Secret
    mount: str


def read_texts(
    settings: MonitorSettings, environ: Mapping[str, str], names: Sequence[str], warn: Callable[[str], None]
) -> list[Secret]:
    """Read the texts that a secret has under `names`.

    Args:
        settings: address, login and path.
        environ: VAULT_ADDR and VAULT_TOKEN stand in for the settings, as for Vault's own command; VAULT_CACERT and
            VAULT_NAMESPACE count too.
        names: keys within the secret.
        warn: is called with what the operator has to do before the token ends.

    Raises:
        SettingsError: the settings do not say where Vault is, which secret is meant or how to log in.
        StartError: it cannot be read; the text says why and what to do.
    """
    place = _place(settings, environ)
    login = _login(settings, environ)
    try:
        import hvac
    except ImportError:
        raise StartError("hvac is not installed, which reads Vault", "pip install 'trunkline[monitor]'") from None
    client = hvac.Client(
        url=place.url,
        # An empty one keeps the library from looking for a token by itself.
        token=login.reveal() if isinstance(login, Secret) else "",
        timeout=_TIMEOUT_S,
        verify=environ.get("VAULT_CACERT", True),
        namespace=environ.get("VAULT_NAMESPACE"),
        allow_redirects=False,
    )
    try:
        with _explained(place):
            if isinstance(login, _AppRole):
                _log_in(client, login, place)
            values = _values(client, place)
        _end(client, login, warn)
    finally:
        client.adapter.close()
    missing = [name for name in names if not _is_word(values, name)]
    if missing:
        raise StartError(f"{place} has no text under {' and '.join(missing)}", "Write it into the secret.")
    return [Secret(values[name]) for name in names]


def _place(settings: MonitorSettings, environ: Mapping[str, str]) -> _Place:
    url = settings.vault_url or environ.get("VAULT_ADDR", "")
    if not url:
        raise SettingsError("monitor.vault_url", allowed="it says where Vault is; set it, or VAULT_ADDR")
    mount, _, path = settings.vault_path.strip("/").partition("/")
    if not mount or not path:
        allowed = "allowed: mount/path, such as secret/trunkline/grafana"
        raise SettingsError("monitor.vault_path", value=settings.vault_path, allowed=allowed)
    return _Place(url, mount, path)


def _login(settings: MonitorSettings, environ: Mapping[str, str]) -> Secret | _AppRole:
    secret_file = settings.vault_secret_id_file
    if settings.vault_role_id and secret_file is not None:
        secret_id = _read(secret_file, "monitor.vault_secret_id_file")
        return _AppRole(settings.vault_role_id, secret_id, settings.vault_approle_path.strip("/"))
    if settings.vault_role_id or secret_file is not None:
        missing = "vault_secret_id_file" if secret_file is None else "vault_role_id"
        raise SettingsError(f"monitor.{missing}", allowed="a login by AppRole needs it; set both")
    if settings.vault_token_file is not None:
        return _read(settings.vault_token_file, "monitor.vault_token_file")
    if environ.get("VAULT_TOKEN"):
        return Secret(environ["VAULT_TOKEN"])
    # Where `vault login` and `bao login` leave it.
    home = environ.get("HOME")
    if home and (usual := Path(home) / ".vault-token").is_file():
        return _read(usual, "monitor.vault_token_file")
    allowed = "Vault wants a token; set it, or VAULT_TOKEN, or monitor.vault_role_id for AppRole"
    raise SettingsError("monitor.vault_token_file", allowed=allowed)


def _read(path: Path, setting: str) -> Secret:
    text = read_stripped(path, setting)
    if not text:
        raise StartError(f"{path} is empty", f"Check {setting}.")
    return Secret(text)


def _log_in(client: Client, role: _AppRole, place: _Place) -> None:
    """Get a token by AppRole."""
    from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest  # type: ignore[import-untyped]

    try:
        client.auth.approle.login(role.role_id, role.secret_id.reveal(), mount_point=role.mount)
    except (Forbidden, InvalidPath):
        hint = f"Enable it (bao auth enable -path={role.mount} approle), or check monitor.vault_approle_path."
        raise StartError(f"{place.vault} has no AppRole at auth/{role.mount}", hint) from None
    except InvalidRequest:
        hint = (
            "Check monitor.vault_role_id, and write a new secret ID into the file of monitor.vault_secret_id_file: "
            "one expires, and may be used a limited number of times."
        )
        raise StartError(f"{place.vault} refuses the role ID or its secret ID", hint) from None


def _values(client: Client, place: _Place) -> Any:
    """What the secret holds now."""
    from hvac.exceptions import Forbidden, InvalidPath

    try:
        answer = client.secrets.kv.v2.read_secret_version(
            path=place.path, mount_point=place.mount, raise_on_deleted_version=True
        )
        return answer["data"]["data"]
    except InvalidPath:
        raise StartError(f"there is no {place}", "Check monitor.vault_path; it needs KV version 2.") from None
    except Forbidden:
        rule = f'path "{place.mount}/data/{place.path}" {{ capabilities = ["read"] }}'
        # Vault answers the same to a token that it does not know and to one that may not.
        with contextlib.suppress(Forbidden):
            client.auth.token.lookup_self()
            raise StartError(f"the token may not read {place}", f"Its policy needs: {rule}") from None
        hint = f"Log in again, and write the new token where this one came from. Its policy needs: {rule}"
        raise StartError(f"the token that is to read {place} has expired, or was never valid", hint) from None


def _end(client: Client, login: Secret | _AppRole, warn: Callable[[str], None]) -> None:
    """Revoke the token that AppRole gave; have the operator's last longer. The secret is read: no failure counts."""
    import requests
    from hvac.exceptions import VaultError

    with contextlib.suppress(VaultError, requests.RequestException, KeyError, TypeError):
        if isinstance(login, _AppRole):
            client.auth.token.revoke_self()
            return
        token = client.auth.token.lookup_self()["data"]
        life, left = token["creation_ttl"], token["ttl"]
        if not life or left * 2 >= life:  # one without an end has no ttl
            return
        if token["renewable"]:
            with contextlib.suppress(VaultError):
                left = client.auth.token.renew_self()["auth"]["lease_duration"]
        if left * 2 < life:
            warn(f"the token for Vault ends in {left} s and cannot be made to last longer; put a new one in its place")


@contextlib.contextmanager
def _explained(place: _Place) -> Iterator[None]:
    """Raise what goes wrong with Vault as StartError."""
    import requests
    from hvac.exceptions import VaultDown, VaultError

    try:
        yield
    except VaultDown as error:
        if "sealed" not in str(error):
            raise StartError(f"{place.vault} cannot answer now", "Look at its log.") from None
        hint = "Unseal it (bao operator unseal, or vault operator unseal), and run this again; what is kept stays."
        raise StartError(f"{place.vault} is sealed", hint) from None
    except requests.exceptions.SSLError as error:
        found = _WHY_NO_TRUST.search(str(error))
        why = found[1].strip() if found is not None else "TLS failed"
        hint = "Name the file of its authority in VAULT_CACERT, and Vault by a name that its certificate has."
        raise StartError(f"{place.vault} is not trusted: {why}", hint) from None
    except (VaultError, requests.RequestException, KeyError, TypeError, ValueError, OSError) as error:
        why = type(error).__name__
        raise StartError(f"{place} cannot be read ({why})", "Check monitor.vault_url and Vault itself.") from None


def _is_word(values: object, name: str) -> bool:
    return isinstance(values, dict) and isinstance(values.get(name), str) and bool(values[name].strip())
