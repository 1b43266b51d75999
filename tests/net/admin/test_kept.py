"""Where the token of an admin port is kept: for a user with a home, without one, and where nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import environment
from tests.support.free_ports import free_port
from trunkline.net.admin.kept import kept_ports, kept_token
from trunkline.net.admin.tokens import AdminTokens
from trunkline.process.user_dirs import private_dirs


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user with no HOME and no entry in the password database; returns the runtime directory."""

    def unknown(uid: int) -> object:
        raise KeyError(uid)

    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_without_a_home_the_runtime_directory_keeps_it(homeless: Path) -> None:
    """The other commands of that user find it there."""
    token = AdminTokens(4001, ())
    token.keep()
    assert token.unkept == ""
    assert (homeless / "trunkline" / "admin-4001.token").read_text() == token.reveal() == kept_token(4001)
    assert kept_ports() == {4001}
    token.forget()
    assert (kept_ports(), kept_token(4001)) == (set(), None)


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next directory is tried; with none left the token stays in memory, and says why."""
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(file / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    token = AdminTokens(4001, ())
    token.keep()
    assert kept_token(4001) == token.reveal()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(file / "run"))
    token = AdminTokens(4001, ())
    token.keep()
    assert token.unkept == f"{file}/state/trunkline/admin-4001.token: Not a directory"
    assert kept_token(4001) is None
    assert token.of(f"Bearer {token.reveal()}") is not None


def test_the_places_of_a_user() -> None:
    """XDG's variables, else its defaults."""
    assert private_dirs({"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}) == (
        Path("/s/trunkline"),
        Path("/r/trunkline"),
    )
    for none in ({}, {"XDG_STATE_HOME": "state", "XDG_RUNTIME_DIR": ""}):
        home, run = private_dirs(none)
        assert home == Path.home() / ".local/state/trunkline"
        assert run == Path(f"/run/user/{os.getuid()}/trunkline")


@pytest.mark.process
@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="becomes another user: root and setpriv"
)
def test_a_node_of_a_user_without_home(tmp_path: Path) -> None:
    """It serves all the same, and one line says that nobody has the admin token."""
    kept = "-all,+dac_read_search"  # Python and the project may lie below root's home
    environ = environment(tmp_path) | {
        "TRUNKLINE_SERVER_DRAIN_MS": "0", "TRUNKLINE_SERVER_PORT": "0", "TRUNKLINE_ADMIN_PORT": str(free_port()),
    }  # fmt: skip
    environ = {key: value for key, value in environ.items() if key != "HOME" and not key.startswith("XDG_")}
    node = subprocess.Popen(
        ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", f"--inh-caps={kept}", f"--ambient-caps={kept}",
         sys.executable, "-m", "trunkline", "serve", "--host", "127.0.0.1"],
        cwd="/", env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert node.stdout is not None
        seen = {}
        for line in node.stdout:
            event = json.loads(line)
            seen[event["event"]] = event
            if event["event"] == "node_up":
                break
        assert "admin-" in seen["admin_token_not_kept"]["why"]
        assert "admin.token" in seen["admin_token_not_kept"]["next_step"]
        assert "node_up" in seen
    finally:
        node.send_signal(signal.SIGTERM)
        node.communicate()
    assert node.returncode == 0
