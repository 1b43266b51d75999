"""What the service `prepare` makes of the operator's files, what is there already, and nothing."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")

SCRIPT = runpy.run_path(str(ROOT / "deploy/compose/prepare.py"), run_name="prepare")
Unusable: type[Exception] = SCRIPT["Unusable"]
Prepare = Callable[..., list[str]]


class Volumes:
    """The directories that the service mounts."""

    def __init__(self, root: Path) -> None:
        self.given, self.volumes = root / "given", root / "volumes"
        for path in (self.given, *(self.volumes / name for name in ("secrets", "logs", "balancer"))):
            path.mkdir(parents=True)

    def prepare(self, **options: Any) -> list[str]:
        """Run it; what it says."""
        said: list[str] = SCRIPT["prepare"](self.given, self.volumes, **{"must_be_given": False, **options})
        return said

    def secret(self, path: str) -> str:
        return (self.volumes / "secrets" / path).read_text()

    def owner_and_mode(self, path: str) -> tuple[int, int, int]:
        status = (self.volumes / path).stat()
        return status.st_uid, status.st_gid, status.st_mode & 0o777


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path)


def test_secrets_are_made_once(volumes: Volumes) -> None:
    """At the first start every secret is made, and said by name alone; later nothing is."""
    said = volumes.prepare()
    token = volumes.secret("trunkline/admin_token")
    assert len(token) >= 32
    assert "made the secret admin_token" in said
    assert token not in "".join(said)
    assert volumes.secret("grafana/grafana_admin_user") == "admin"
    assert not (volumes.volumes / "secrets/alertmanager/webhook_url").exists()
    assert volumes.prepare() == []
    assert volumes.secret("trunkline/admin_token") == token


def test_each_program_reads_its_own(volumes: Volumes) -> None:
    """Directories and files belong to the users of the images; two programs that share a secret have the same one."""
    volumes.prepare()
    assert volumes.owner_and_mode("secrets/trunkline") == (10_001, 0, 0o550)
    assert volumes.owner_and_mode("secrets/trunkline/admin_token") == (10_001, 0, 0o440)
    assert volumes.owner_and_mode("secrets/postgres/postgres_password") == (999, 0, 0o400)
    assert volumes.owner_and_mode("secrets/elastic") == (1_000, 0, 0o500)
    assert volumes.owner_and_mode("logs")[:2] == (10_001, 10_001)
    shared = "postgres_exporter_password"
    assert volumes.secret(f"postgres/{shared}") == volumes.secret(f"postgres-exporter/{shared}")


def test_the_operators_file_comes_first(volumes: Volumes) -> None:
    """A given file replaces what was made; its line end is no part of it. Without it again, what it said is kept."""
    volumes.prepare()
    (volumes.given / "admin_token").write_text("of-the-operator-0123456789\n")
    (volumes.given / "webhook_url").write_text("https://hooks.example.org/x\n")
    volumes.prepare()
    assert volumes.secret("trunkline/admin_token") == "of-the-operator-0123456789"
    assert volumes.secret("alertmanager/webhook_url") == "https://hooks.example.org/x"
    (volumes.given / "admin_token").unlink()
    volumes.prepare()
    assert volumes.secret("trunkline/admin_token") == "of-the-operator-0123456789"


def test_missing_secrets_are_named(volumes: Volumes) -> None:
    """Where all must be given, each missing one is named once, and nothing is made."""
    for name in ("admin_token", "postgres_password", "grafana_admin_user", "grafana_admin_password"):
        (volumes.given / name).write_text("x" * 32)
    with pytest.raises(Unusable) as caught:
        volumes.prepare(must_be_given=True)
    text = str(caught.value)
    assert "postgres_exporter_password, elastic_password, kibana_password, filebeat_password;" in text
    assert text.count("postgres_exporter_password") == 1
    assert not any((volumes.volumes / "secrets").iterdir())


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_an_empty_file_is_refused(volumes: Volumes, content: str) -> None:
    """An empty secret is a mistake, not a password."""
    (volumes.given / "admin_token").write_text(content)
    with pytest.raises(Unusable, match="the secret admin_token is empty"):
        volumes.prepare()


def test_what_cannot_be_read_is_named(volumes: Volumes) -> None:
    """A directory in the place of a file, which Docker makes of a mount without a source."""
    (volumes.given / "admin_token").mkdir()
    with pytest.raises(Unusable, match="the secret admin_token cannot be read: Is a directory"):
        volumes.prepare()


def test_a_link_out_of_the_directory_is_refused(volumes: Volumes, tmp_path: Path) -> None:
    """Its target is not in the container, and a secret made in its place would be another one than the operator's."""
    (volumes.given / "admin_token").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(Unusable, match="the secret admin_token is a link out of its directory"):
        volumes.prepare()


def test_a_misspelt_name_is_said(volumes: Volumes) -> None:
    """A file that no program takes is named at each start; hidden ones are not."""
    (volumes.given / "admin-token").write_text("x" * 32)
    (volumes.given / ".gitignore").write_text("*")
    assert "no program has a secret named admin-token" in volumes.prepare()
    assert volumes.prepare() == ["no program has a secret named admin-token"]
