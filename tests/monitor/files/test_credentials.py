"""Grafana's admin user and password: made, and from files; `test_vault.py` has the rest."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.support.monitor.watchers import monitor
from trunkline.errors import StartError
from trunkline.monitor.files import credentials


def kept(directory: Path) -> tuple[str, str]:
    """User and password as they are kept."""
    place = directory / "secrets"
    return (place / "grafana_admin_user").read_text(), (place / "grafana_admin_password").read_text()


def test_a_password_is_made_once_and_stays(tmp_path: Path) -> None:
    """Grafana takes it at its first start only, so a second one would be wrong."""
    credentials.keep(tmp_path, monitor().monitor, {}, str)
    user, password = kept(tmp_path)
    assert user == "admin"
    assert len(password) >= 24
    credentials.keep(tmp_path, monitor().monitor, {}, str)
    assert kept(tmp_path) == (user, password)


def test_only_this_user_can_read_them_and_git_leaves_them_out(tmp_path: Path) -> None:
    """The directory too, also when it was there with other rights."""
    (tmp_path / "secrets").mkdir(mode=0o755)
    files = credentials.keep(tmp_path, monitor().monitor, {}, str)
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
        credentials.keep(tmp_path, settings, {}, str)
        assert kept(tmp_path) == ("root", text)
    password.write_text("\n")
    with pytest.raises(StartError, match=r"is empty.*grafana_password_file"):
        credentials.keep(tmp_path, settings, {}, str)
    password.unlink()
    with pytest.raises(StartError, match=r"cannot be read.*grafana_password_file"):
        credentials.keep(tmp_path, settings, {}, str)


def test_without_hvac_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who uses Vault needs it."""
    monkeypatch.setitem(__import__("sys").modules, "hvac", None)
    settings = monitor(grafana_credentials="vault", vault_url="http://127.0.0.1:9").monitor
    with pytest.raises(StartError, match=r"hvac is not installed.*pip install"):
        credentials.keep(tmp_path, settings, {"VAULT_TOKEN": "t"}, str)
    credentials.keep(tmp_path, monitor().monitor, {}, str)
