from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.command_line import refusal
from trunkline.cli.config import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_check_says_what_was_read(tmp_path: Path) -> None:
    """Usable settings: exit 0 and the file's name."""
    (tmp_path / "trunkline.toml").write_text("[server]\nport = 4000\n")
    result = runner.invoke(app, ["check"])
    assert result.exit_code == 0
    assert "trunkline.toml; 1 of " in result.stdout


def test_check_refuses_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad setting: exit 2, and the error on standard error with the nearest name."""
    file = tmp_path / "other.toml"
    file.write_text("[server]\nprot = 4000\n")
    error = refusal(f"config check --config {file}", monkeypatch, capsys)
    assert "did you mean server.port?" in error
    assert "other.toml line 2" in error


def test_check_reads_key_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key file that is not there is found by the check, not by the first client."""
    (tmp_path / "trunkline.toml").write_text('[auth]\nalgorithms = ["RS256"]\npublic_key_file = "nowhere.pem"\n')
    assert "auth.public_key_file" in refusal("config check", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[monitor]\nscrape_interval_ms = "5s"\nscrape_timeout_ms = "10s"\n', "monitor.scrape_timeout_ms"),
        ('[monitor]\ntoken_file = "admin.token"\n', "monitor.token_file"),
        ("[monitor]\ncompose = true\n", "monitor.nodes"),
        ('[monitor]\nsmtp_user = "me"\n', "monitor.smtp_user"),
        ('[traefik]\nacme_email = "ops@example.org"\n', "traefik.https_port"),
        ("[traefik]\nping_port = 80\nhttp_port = 80\n", "traefik.ping_port"),
        ('[traefik]\ndashboard_host = "a.test"\n', "traefik.dashboard_users"),
    ],
)
def test_check_finds_what_cannot_be_rendered(
    text: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `monitor render` and `traefik render` would refuse is no usable setting."""
    (tmp_path / "trunkline.toml").write_text(text)
    assert key in refusal("config check", monkeypatch, capsys)


def test_check_takes_a_short_scrape_interval(tmp_path: Path) -> None:
    """The time that a scrape may take follows the interval where it is not set."""
    (tmp_path / "trunkline.toml").write_text('[monitor]\nscrape_interval_ms = "5s"\n')
    assert runner.invoke(app, ["check"]).exit_code == 0


def test_check_takes_a_relay_on_any_free_port(tmp_path: Path) -> None:
    """No Traefik could ask it, and none has to."""
    (tmp_path / "trunkline.toml").write_text("[balancer]\nport = 0\n")
    assert runner.invoke(app, ["check"]).exit_code == 0


def test_show_json_masks_secrets(tmp_path: Path) -> None:
    """Rows carry key, value and source; a secret is masked."""
    result = runner.invoke(app, ["show", "--json"], env={"PORT": "4000", "TRUNKLINE_ADMIN_TOKEN": "x" * 40})
    rows = {row["key"]: row for row in json.loads(result.stdout)}
    assert rows["server.port"] == {"key": "server.port", "value": 4000, "source": "environment PORT"}
    assert rows["admin.token"]["value"] == "***"
    assert rows["channels.rules"]["value"] == []
    assert "xxxx" not in result.stdout


def test_show_prints_plain_lines_when_piped() -> None:
    """Without a terminal each setting is one plain line."""
    result = runner.invoke(app, ["show"])
    assert result.exit_code == 0
    assert "server.port = 3001  # default" in result.stdout.splitlines()


def test_show_says_what_takes_the_place_of_a_setting() -> None:
    """Whoever looks for the shares of groups learns that a traffic table replaces them."""
    lines = runner.invoke(app, ["show"]).stdout.splitlines()
    assert "balancer.groups = []  # default; counts until a traffic table is written (/api/traffic)" in lines
    rows = {row["key"]: row for row in json.loads(runner.invoke(app, ["show", "--json"]).stdout)}
    assert "traffic table" in rows["balancer.groups"]["note"]
