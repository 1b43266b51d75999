"""`trunkline monitor render`, `check` and `credentials` as people run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import patient

FEW = "--no-dashboards"


def trunkline(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`trunkline monitor …` in a directory, with nothing of the developer's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUNKLINE_", "VAULT_"))}
    return subprocess.run(
        [sys.executable, "-m", "trunkline", "monitor", *arguments],
        cwd=directory, env=kept | environ, capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip


def test_rendered_files_are_checked_until_one_differs(tmp_path: Path) -> None:
    """`check` and `render --check` say the same: 0, and then 1 with each file that is missing, changed or extra."""
    out = tmp_path / "watch"
    rendered = trunkline(tmp_path, "render", "watch", FEW)
    assert rendered.returncode == 0, rendered.stderr
    assert "wrote watch/prometheus/prometheus.yml" in rendered.stdout
    assert trunkline(tmp_path, "check", "watch", FEW).returncode == 0
    (out / "prometheus/prometheus.yml").write_text("global: {}\n")
    (out / "alertmanager/alertmanager.yml").unlink()
    (out / "prometheus/rules/mine.yml").write_text("groups: []\n")
    first, second = trunkline(tmp_path, "check", "watch", FEW), trunkline(tmp_path, "render", "--check", "watch", FEW)
    assert (first.returncode, first.stdout) == (1, second.stdout)
    assert second.returncode == 1
    assert [line.split() for line in first.stdout.splitlines()[:-1]] == [
        ["missing", "watch/alertmanager/alertmanager.yml"],
        ["changed", "watch/prometheus/prometheus.yml"],
        ["extra", "watch/prometheus/rules/mine.yml"],
    ]
    assert (out / "prometheus/prometheus.yml").read_text() == "global: {}\n"
    again = trunkline(tmp_path, "render", "watch", FEW)
    assert again.returncode == 0
    assert "2 written" in again.stdout
    assert "watch/prometheus/rules/mine.yml is not rendered any more" in again.stderr


def test_changed_settings_are_a_difference(tmp_path: Path) -> None:
    """What was rendered from other settings is not what these say."""
    (tmp_path / "trunkline.toml").write_text('[monitor]\nnodes = ["10.0.0.1:3001"]\n')
    assert trunkline(tmp_path, "render", "watch", FEW).returncode == 0
    assert "- 10.0.0.1:3001\n" in (tmp_path / "watch/prometheus/prometheus.yml").read_text()
    found = trunkline(tmp_path, "check", "watch", FEW, TRUNKLINE_MONITOR_SCRAPE_INTERVAL_MS="30s")
    assert found.returncode == 1
    assert "changed  watch/prometheus/prometheus.yml" in found.stdout


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TRUNKLINE_MONITOR_WEBHOOK_URL_FILE": "url"}, "monitor.webhook_url_file"),
        ({"TRUNKLINE_MONITOR_SCRAPE_TIMEOUT_MS": "60s"}, "monitor.scrape_timeout_ms"),
        ({"TRUNKLINE_MONITOR_RETENTION_DAYS": "0"}, "monitor.retention_days"),
        ({"TRUNKLINE_MONITOR_NODES": '["no port"]'}, "monitor.nodes"),
    ],
)
@pytest.mark.parametrize("command", ["render", "check"])
def test_settings_that_cannot_be_used_are_one_line(
    tmp_path: Path, command: str, environ: dict[str, str], words: str
) -> None:
    """Exit code 2, the setting's name, and nothing written."""
    found = trunkline(tmp_path, command, "watch", FEW, **environ)
    assert found.returncode == 2
    assert words in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "watch").exists()


def test_credentials_are_kept_and_never_printed(tmp_path: Path) -> None:
    """The command names the files; a rendered directory with them is as rendered."""
    (tmp_path / "password").write_text("correct horse battery\n")
    assert trunkline(tmp_path, "render", "watch", FEW).returncode == 0
    password = str(tmp_path / "password")
    found = trunkline(tmp_path, "credentials", "watch", TRUNKLINE_MONITOR_GRAFANA_PASSWORD_FILE=password)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [
        "kept", "watch/secrets/grafana_admin_user", "kept", "watch/secrets/grafana_admin_password",
    ]  # fmt: skip
    assert "correct horse" not in found.stdout + found.stderr
    assert (tmp_path / "watch/secrets/grafana_admin_password").read_text() == "correct horse battery"
    assert trunkline(tmp_path, "check", "watch", FEW).returncode == 0


def test_credentials_that_are_nowhere_are_one_line(tmp_path: Path) -> None:
    """Exit code 2 with what to set."""
    found = trunkline(tmp_path, "credentials", "watch", TRUNKLINE_MONITOR_GRAFANA_CREDENTIALS="vault")
    assert found.returncode == 2
    assert "monitor.vault_url" in found.stderr
    assert len(found.stderr.splitlines()) == 1
