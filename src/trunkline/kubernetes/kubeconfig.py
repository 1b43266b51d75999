"""Kubeconfig files, as kubectl reads them.

Rules:

- Of several files the first that names a cluster, user or context holds, and the first with a current context.
- A path is relative to the folder of the file that it stands in.
- Of a user one is used, in this order: client certificate (beside the others), token, tokenFile, exec. What kubectl
  itself no longer knows (username and password, auth-provider) is refused by name.
- Over plain HTTP no token is sent.
- null is the same as nothing at all.

Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import yaml

from trunkline.errors import SettingsError
from trunkline.kubernetes.access import Access, Pem, no_access, of_pod
from trunkline.kubernetes.credentials import Credentials, FileToken, FixedToken, ProgramToken
from trunkline.settings.secret import Secret

SETTING: Final = "kubernetes.kubeconfig"
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _Variable(msgspec.Struct):
    name: str
    value: str = ""


class _Program(msgspec.Struct, rename="camel"):
    command: str
    api_version: str = "client.authentication.k8s.io/v1"
    args: tuple[str, ...] = ()
    env: tuple[_Variable, ...] = ()
    install_hint: str = ""


class _User(msgspec.Struct, rename="kebab"):
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    program: _Program | None = msgspec.field(name="exec", default=None)
    username: str = ""
    auth_provider: dict[str, object] | None = None


class _Context(msgspec.Struct):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster = msgspec.field(default_factory=_Cluster)


class _NamedUser(msgspec.Struct):
    name: str
    user: _User = msgspec.field(default_factory=_User)


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context = msgspec.field(default_factory=_Context)


class _File(msgspec.Struct, rename="kebab"):
    clusters: tuple[_NamedCluster, ...] = ()
    users: tuple[_NamedUser, ...] = ()
    contexts: tuple[_NamedContext, ...] = ()
    current_context: str = ""


T = TypeVar("T")


class _Entry(msgspec.Struct):
    """A user or cluster with the folder of the file that has it."""

    folder: Path
    cluster: _Cluster = msgspec.field(default_factory=_Cluster)
    user: _User = msgspec.field(default_factory=_User)


def find_access(
    kubeconfig: Path | None, context: str, environ: Mapping[str, str], *, home: Path | None = None
) -> Access:
    """The API server that is meant, by the table of `access`.

    Args:
        kubeconfig: the file that is set, None for none.
        context: the context that is set, empty for the current one.
        environ: the environment.
        home: home directory, None for the user's.

    Raises:
        SettingsError: a kubeconfig that cannot be used.
        StartError: no API server is known.
    """
    if kubeconfig is not None:
        return access_of([kubeconfig], context)
    if named := [Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]:
        there = [path for path in named if os.path.exists(path)]
        return access_of(there or named, context)
    with contextlib.suppress(RuntimeError):  # a bare user number has no home
        own = (home or Path.home()) / ".kube" / "config"
        # False, too, for a home directory that belongs to somebody else.
        if os.path.exists(own):
            return access_of([own], context)
    if (found := of_pod(environ)) is not None:
        return found
    raise no_access()


def access_of(files: Sequence[Path], context: str) -> Access:
    """What kubeconfig files say of a context, empty for the current one; raises SettingsError."""
    clusters: dict[str, _Entry] = {}
    users: dict[str, _Entry] = {}
    contexts: dict[str, _Context] = {}
    current = ""
    for path in files:
        file = _read(path)
        for each in file.clusters:
            clusters.setdefault(each.name, _Entry(path.parent, cluster=each.cluster))
        for one in file.users:
            users.setdefault(one.name, _Entry(path.parent, user=one.user))
        for named in file.contexts:
            contexts.setdefault(named.name, named.context)
        current = current or file.current_context
    shown = ", ".join(map(str, files))
    name = context or current
    if not name:
        raise SettingsError("kubernetes.context", allowed=f"{shown} has no current-context; set kubernetes.context")
    if name not in contexts:
        allowed = f"{shown} has the contexts {', '.join(sorted(contexts)) or '(none)'}"
        raise SettingsError("kubernetes.context", value=name, allowed=allowed)
    chosen = contexts[name]
    if chosen.cluster not in clusters:
        raise _wrong(shown, f"context {name} names the cluster {chosen.cluster!r}, which is not there")
    if chosen.user and chosen.user not in users:
        raise _wrong(shown, f"context {name} names the user {chosen.user!r}, which is not there")
    return _access(shown, clusters[chosen.cluster], users.get(chosen.user) or _Entry(Path()), chosen.namespace)


def _read(path: Path) -> _File:
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - one of the two safe loaders
        return msgspec.convert(_without_nulls(loaded) or {}, _File)
    except OSError as error:
        raise _wrong(str(path), f"it cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        # Its text would show the line, and lines of this file are secrets.
        mark = getattr(error, "problem_mark", None)
        raise _wrong(str(path), f"it is not YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "it is not UTF-8 text"
        raise _wrong(str(path), why) from None


def _without_nulls(found: object) -> object:
    if isinstance(found, dict):
        return {name: _without_nulls(value) for name, value in found.items() if value is not None}
    return [_without_nulls(value) for value in found] if isinstance(found, list) else found


def _access(shown: str, at: _Entry, by: _Entry, namespace: str) -> Access:
    cluster, user = at.cluster, by.user
    if not cluster.server.startswith(("https://", "http://")):
        raise _wrong(shown, f"the server {cluster.server!r} is no URL with https:// or http://")
    if cluster.proxy_url:
        raise _wrong(shown, "proxy-url is not supported")
    certificate = _pem(shown, by.folder, "client-certificate", user.client_certificate, user.client_certificate_data)
    key = _pem(shown, by.folder, "client-key", user.client_key, user.client_key_data)
    if bool(certificate) != bool(key):
        raise _wrong(shown, "a client certificate needs its key, and a key its certificate")
    credentials = _credentials(shown, by.folder, user)
    return Access(
        server=cluster.server.rstrip("/"),
        credentials=credentials if cluster.server.startswith("https://") else FixedToken(Secret("")),
        namespace=namespace or "default",
        ca=_pem(
            shown, at.folder, "certificate-authority", cluster.certificate_authority, cluster.certificate_authority_data
        ),
        verify=not cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        certificate=certificate,
        key=key,
    )


def _credentials(shown: str, folder: Path, user: _User) -> Credentials:
    if user.username or user.auth_provider is not None:
        raise _wrong(shown, "username and auth-provider are not supported; kubectl has exec in their place")
    if user.token:
        return FixedToken(Secret(user.token))
    if user.token_file:
        return FileToken(folder / user.token_file)
    if user.program is not None:
        program = user.program
        # A name without a slash is looked up in PATH, a path is relative to the kubeconfig.
        command = str(folder / program.command) if "/" in program.command else program.command
        extra = {variable.name: variable.value for variable in program.env}
        return ProgramToken((command, *program.args), extra, program.api_version, program.install_hint)
    return FixedToken(Secret(""))


def _pem(shown: str, folder: Path, name: str, file: str, data: str) -> Pem:
    """Data counts before a file, as with kubectl."""
    if data:
        try:
            return Pem(data=base64.b64decode(data, validate=True))
        except binascii.Error:
            raise _wrong(shown, f"{name}-data is not base64") from None
    return Pem(folder / file) if file else Pem()


def _wrong(shown: str, why: str) -> SettingsError:
    return SettingsError(SETTING, value=shown, allowed=why)
