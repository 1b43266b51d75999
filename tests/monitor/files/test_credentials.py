"""Grafana's admin user and password: made, from files, and from a server that answers as Vault does."""

from __future__ import annotations

import contextlib
import json
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.monitor.watchers import monitor
from trunkline.errors import SettingsError, StartError
from trunkline.monitor.files import credentials

TOKEN = "hvs.a-token"
SECRETS: dict[str, Any] = {
    "kv/data/live/grafana": {"admin_user": "root", "admin_password": "pa$$word from vault"},
    "secret/data/trunkline/grafana": {"admin_user": "root", "admin_password": "the default path"},
    "kv/data/live/half": {"admin_user": "root"},
    "kv/data/live/number": {"admin_user": "root", "admin_password": 12345},
}


@contextlib.contextmanager
def vault() -> Iterator[str]:
    """A server that answers reads of KV version 2 as Vault does; its address."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            values = SECRETS.get(self.path.partition("?")[0].removeprefix("/v1/"))
            if self.headers.get("X-Vault-Token") != TOKEN:
                self.tell(403, {"errors": ["permission denied"]})
            elif self.path.startswith("/v1/kv/data/moved"):
                self.send_response(307)
                self.send_header("Location", "http://127.0.0.1:9/stolen")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif values is None:
                self.tell(404, {"errors": []})
            else:
                made = {"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": False, "version": 3}
                self.tell(200, {"request_id": "1", "lease_id": "", "renewable": False, "lease_duration": 0,
                                "data": {"data": values, "metadata": made}, "wrap_info": None, "warnings": None,
                                "auth": None})  # fmt: skip

        def tell(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def kept(directory: Path) -> tuple[str, str]:
    """User and password as they are kept."""
    place = directory / "secrets"
    return (place / "grafana_admin_user").read_text(), (place / "grafana_admin_password").read_text()


def test_a_password_is_made_once_and_stays(tmp_path: Path) -> None:
    """Grafana takes it at its first start only, so a second one would be wrong."""
    credentials.keep(tmp_path, monitor().monitor, {})
    user, password = kept(tmp_path)
    assert user == "admin"
    assert len(password) >= 24
    credentials.keep(tmp_path, monitor().monitor, {})
    assert kept(tmp_path) == (user, password)


def test_only_this_user_can_read_them_and_git_leaves_them_out(tmp_path: Path) -> None:
    """The directory too, also when it was there with other rights."""
    (tmp_path / "secrets").mkdir(mode=0o755)
    files = credentials.keep(tmp_path, monitor().monitor, {})
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert (tmp_path / "secrets" / ".gitignore").read_text() == "*\n"


def test_files_of_the_operator_are_taken(tmp_path: Path) -> None:
    """Without the line end that editors add; a changed file is taken again."""
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("root\n")
    settings = monitor(grafana_user_file=user, grafana_password_file=password).monitor
    for text in ("one", "two"):
        password.write_text(f"{text}\n")
        credentials.keep(tmp_path, settings, {})
        assert kept(tmp_path) == ("root", text)
    password.write_text("\n")
    with pytest.raises(StartError, match=r"is empty.*grafana_password_file"):
        credentials.keep(tmp_path, settings, {})
    password.unlink()
    with pytest.raises(StartError, match=r"cannot be read.*grafana_password_file"):
        credentials.keep(tmp_path, settings, {})


@pytest.mark.parametrize("source", ["settings", "environment", "login"])
def test_vault_is_read_with_a_token_from_where_vaults_users_have_it(tmp_path: Path, source: str) -> None:
    """From a file the settings name, from VAULT_ADDR and VAULT_TOKEN, or from where `vault login` leaves it."""
    pytest.importorskip("hvac", reason="Vault needs the package hvac")
    home = tmp_path / "home"
    home.mkdir()
    given: dict[str, Any] = {"grafana_credentials": "vault", "vault_path": "kv/live/grafana"}
    with vault() as url:
        environ = {"HOME": str(home), "VAULT_ADDR": url}
        if source == "settings":
            (tmp_path / "token").write_text(f"{TOKEN}\n")
            given |= {"vault_url": url, "vault_token_file": tmp_path / "token"}
            environ = {"HOME": str(home), "VAULT_ADDR": "http://127.0.0.1:9", "VAULT_TOKEN": "wrong"}
        elif source == "environment":
            environ["VAULT_TOKEN"] = TOKEN
        else:
            (home / ".vault-token").write_text(TOKEN)
        credentials.keep(tmp_path, monitor(**given).monitor, environ)
        assert kept(tmp_path) == ("root", "pa$$word from vault")


@pytest.mark.parametrize(
    ("path", "token", "message"),
    [
        ("kv/live/grafana", "wrong", "may not read kv/live/grafana"),
        ("kv/live/none", TOKEN, "there is no kv/live/none"),
        ("kv/live/half", TOKEN, "no text under admin_password"),
        ("kv/live/number", TOKEN, "no text under admin_password"),
        ("kv/moved", TOKEN, "cannot be read"),
    ],
)
def test_what_vault_lacks_is_told_without_a_secret(tmp_path: Path, path: str, token: str, message: str) -> None:
    """One line with the path; neither the token nor what else the secret holds; nothing is written."""
    pytest.importorskip("hvac", reason="Vault needs the package hvac")
    with vault() as url:
        settings = monitor(grafana_credentials="vault", vault_url=url, vault_path=path).monitor
        with pytest.raises(StartError, match=message) as raised:
            credentials.keep(tmp_path, settings, {"VAULT_TOKEN": token, "HOME": str(tmp_path)})
    assert not any(secret in str(raised.value) for secret in (token, "root", "12345"))
    assert not (tmp_path / "secrets").exists()


def test_a_vault_that_is_away_is_told(tmp_path: Path) -> None:
    """With its address and the next step."""
    pytest.importorskip("hvac", reason="Vault needs the package hvac")
    settings = monitor(grafana_credentials="vault", vault_url="http://127.0.0.1:9").monitor
    with pytest.raises(StartError, match=r"Vault at http://127\.0\.0\.1:9 cannot be read .*Check monitor\.vault_url"):
        credentials.keep(tmp_path, settings, {"VAULT_TOKEN": TOKEN, "HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("changes", "environ", "key"),
    [
        ({}, {"VAULT_TOKEN": TOKEN}, "monitor.vault_url"),
        ({"vault_url": "http://127.0.0.1:9"}, {}, "monitor.vault_token_file"),
        ({"vault_url": "http://127.0.0.1:9", "vault_path": "grafana"}, {"VAULT_TOKEN": TOKEN}, "monitor.vault_path"),
    ],
)
def test_what_vault_needs_is_named(tmp_path: Path, changes: dict[str, Any], environ: dict[str, str], key: str) -> None:
    """The setting that says it."""
    settings = monitor(grafana_credentials="vault", **changes).monitor
    with pytest.raises(SettingsError) as raised:
        credentials.keep(tmp_path, settings, {"HOME": str(tmp_path), **environ})
    assert raised.value.key == key


def test_without_hvac_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who uses Vault needs it."""
    monkeypatch.setitem(__import__("sys").modules, "hvac", None)
    settings = monitor(grafana_credentials="vault", vault_url="http://127.0.0.1:9").monitor
    with pytest.raises(StartError, match=r"hvac is not installed.*pip install"):
        credentials.keep(tmp_path, settings, {"VAULT_TOKEN": TOKEN})
    credentials.keep(tmp_path, monitor().monitor, {})
