"""Where the Docker daemon is, and with which certificates it is reached.

Rules:

- Without an address of its own a command asks the daemon that `docker` would: DOCKER_HOST, else the context of
  DOCKER_CONTEXT, else that of `docker context use`, else the socket of this machine. DOCKER_CONFIG names another
  directory than ~/.docker.
- With a DOCKER_TLS_VERIFY that is not empty a `tcp://` address is reached over TLS, with the ca.pem, cert.pem and
  key.pem of DOCKER_CERT_PATH. A context has such files of its own.
- `ssh://` is refused: it needs another program, and a forwarded socket does the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from trunkline.errors import SettingsError

SOCKET: Final = "unix:///var/run/docker.sock"
ALLOWED: Final = '"unix:///var/run/docker.sock" or "tcp://host:2376"'

NO_CONFIG: Final = Path("/nonexistent/.docker")
"""Where whoever has no home directory has docker's configuration."""

_PORT, _TLS_PORT = 2375, 2376
_SSH = "forward the socket, ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST, and use unix:///tmp/docker.sock"


class TlsFiles(msgspec.Struct, frozen=True):
    """Files of a connection over TLS, in PEM.

    Attributes:
        ca: certificates to trust; None for those of the system.
        cert: of this client, with `key`; None for a daemon that asks for none.
        verify: whether the daemon has to prove who it is.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    verify: bool = True


class Endpoint(msgspec.Struct, frozen=True):
    """A daemon.

    Attributes:
        url: `unix:///path` or `tcp://host:port`.
        tls: None for a connection without TLS.
        source: what named it, as an error says it.
    """

    url: str
    tls: TlsFiles | None = None
    source: str = ""

    @property
    def host(self) -> str:
        """The daemon's machine as it is reached from here."""
        return urlsplit(self.url).hostname or "127.0.0.1"

    def __str__(self) -> str:
        return f"{self.url} ({self.source})" if self.source else self.url


def named(url: str, *, key: str, environ: Mapping[str, str], tls: TlsFiles | None = None) -> Endpoint:
    """The daemon at an address.

    Args:
        url: the address.
        key: setting that it comes from.
        environ: environment, whose DOCKER_TLS_VERIFY counts where `tls` is not given.
        tls: files of a connection over TLS.

    Raises SettingsError for an address that cannot be used, or a file that is missing.
    """
    if tls is None and not url.startswith("unix:") and environ.get("DOCKER_TLS_VERIFY"):
        tls = files_in(_cert_path(environ), key="DOCKER_CERT_PATH")
    return Endpoint(_checked(url, key, tls), tls, key)


def of_environment(environ: Mapping[str, str]) -> Endpoint:
    """The daemon that `docker` asks in this environment; raises SettingsError for a setting of it that does not fit."""
    if url := environ.get("DOCKER_HOST", ""):
        return named(url if "://" in url else f"tcp://{url}", key="DOCKER_HOST", environ=environ)
    if name := environ.get("DOCKER_CONTEXT", ""):
        return _of_context(name, "DOCKER_CONTEXT", environ)
    if name := _chosen_context(environ):
        return _of_context(name, str(config_dir(environ) / "config.json"), environ)
    return Endpoint(SOCKET)


def files_in(folder: Path, *, key: str) -> TlsFiles:
    """The three files of a directory as `docker` names them; raises SettingsError for one that is missing."""
    found = TlsFiles(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    for path in (found.ca, found.cert, found.key):
        if path is not None and not path.is_file():
            raise SettingsError(key, value=str(folder), allowed=f"a directory with ca.pem, cert.pem and key.pem; "
                                f"there is no {path.name}")  # fmt: skip
    return found


class _Config(msgspec.Struct, rename="camel"):
    current_context: str = ""


class _Place(msgspec.Struct, rename="pascal"):
    host: str = ""
    skip_tls_verify: bool = msgspec.field(name="SkipTLSVerify", default=False)


class _Places(msgspec.Struct):
    docker: _Place


class _Meta(msgspec.Struct, rename="pascal"):
    endpoints: _Places


def _of_context(name: str, key: str, environ: Mapping[str, str]) -> Endpoint:
    if name == "default":
        return Endpoint(SOCKET)
    contexts = config_dir(environ) / "contexts"
    folder = hashlib.sha256(name.encode()).hexdigest()
    try:
        meta = msgspec.json.decode((contexts / "meta" / folder / "meta.json").read_bytes(), type=_Meta)
    except FileNotFoundError:
        raise SettingsError(key, value=name, allowed="a context that `docker context ls` shows") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(key, value=name, allowed=f"a context that can be read ({error})") from None
    place = meta.endpoints.docker
    ca, cert, key_file = (contexts / "tls" / folder / "docker" / f"{part}.pem" for part in ("ca", "cert", "key"))
    tls = None
    if ca.is_file() or cert.is_file() or place.skip_tls_verify:
        tls = TlsFiles(
            ca if ca.is_file() else None,
            cert if cert.is_file() else None,
            key_file if key_file.is_file() else None,
            not place.skip_tls_verify,
        )
    return Endpoint(_checked(place.host, key, tls), tls, f"context {name}")


def _chosen_context(environ: Mapping[str, str]) -> str:
    path = config_dir(environ) / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config).current_context
    except OSError:
        return ""  # `docker` goes without it as well
    except msgspec.MsgspecError as error:
        raise SettingsError(str(path), allowed=f"the configuration of docker as JSON ({error})") from None


def config_dir(environ: Mapping[str, str]) -> Path:
    """Directory of docker's configuration."""
    if folder := environ.get("DOCKER_CONFIG"):
        return Path(folder)
    return Path(environ["HOME"]) / ".docker" if environ.get("HOME") else NO_CONFIG


def _cert_path(environ: Mapping[str, str]) -> Path:
    folder = environ.get("DOCKER_CERT_PATH")
    return Path(folder) if folder else config_dir(environ)


def _checked(url: str, key: str, tls: TlsFiles | None) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # half a pair of brackets, or a port that is no number
        parts, port = urlsplit(""), None
    match parts.scheme:
        case "unix" if parts.path and not parts.netloc:
            return url
        case "tcp" | "http" | "https" if parts.hostname and not parts.path.strip("/"):
            if parts.scheme == "https" and tls is None:
                raise SettingsError(key, value=url, allowed="certificates for it: DOCKER_TLS_VERIFY, DOCKER_CERT_PATH")
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return f"tcp://{host}:{port or (_PORT if tls is None else _TLS_PORT)}"
        case "ssh":
            raise SettingsError(key, value=url, allowed=_SSH)
    raise SettingsError(key, value=url, allowed=f"allowed: {ALLOWED}")
