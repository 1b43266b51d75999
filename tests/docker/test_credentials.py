"""Credentials of a registry, from files as `docker login` writes them and from programs that keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from trunkline.docker import credentials
from trunkline.docker.credentials import HUB, Credentials, credentials_for, registry_of

REGISTRY = "registry.example.org"
MINE = Credentials("me", "pass:word")
AUTH = base64.b64encode(b"me:pass:word").decode()


def configured(folder: Path, **config: Any) -> Path:
    """A directory of docker's configuration."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which programs are found before others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def add_program(folder: Path, name: str, script: str) -> None:
    """Add a program that keeps credentials."""
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("shop:1", HUB), ("me/shop", HUB), ("docker.io/me/shop:1", HUB), ("localhost/shop", "localhost"),
        ("registry.example.org/a/b@sha256:12", REGISTRY), ("127.0.0.1:5000/shop:1", "127.0.0.1:5000"),
    ],
)  # fmt: skip
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    """As docker tells a host from a folder of Docker Hub."""
    assert registry_of(image) == registry


@pytest.mark.parametrize("name", [REGISTRY, f"https://{REGISTRY}", f"https://{REGISTRY}/v1/"])
async def test_what_docker_login_wrote(tmp_path: Path, name: str) -> None:
    """With or without a scheme; of one registry alone."""
    folder = configured(tmp_path, auths={"other.example.org": {}, name: {"auth": AUTH}}, HttpHeaders={"X": "y"})
    assert await credentials_for(REGISTRY, folder) == MINE
    assert await credentials_for("other.example.org", folder) is None
    assert await credentials_for(HUB, folder) is None


async def test_a_token(tmp_path: Path) -> None:
    """It stands in the place of a password."""
    folder = configured(tmp_path, auths={HUB: {"auth": AUTH, "identitytoken": "t"}})
    assert await credentials_for(HUB, folder) == Credentials(identity_token="t")


async def test_programs_that_keep_them(tmp_path: Path, path: Path) -> None:
    """That of the registry before that of all; each gets the registry's name, which is no argument."""
    answer = '{"ServerURL":"%s","Username":"me","Secret":"pass:word"}'
    add_program(path, "one", f"""[ "$(cat)" = {REGISTRY} ] && [ "$*" = get ] && echo '{answer}'""")
    add_program(path, "all", """echo '{"Username":"<token>","Secret":"t"}'""")
    folder = configured(tmp_path, credsStore="all", credHelpers={REGISTRY: "one"}, auths={REGISTRY: {}})
    assert await credentials_for(REGISTRY, folder) == MINE
    assert await credentials_for(HUB, folder) == Credentials(identity_token="t")


@pytest.mark.parametrize(
    "script", ["echo credentials not found in native keychain; exit 1", "echo '{}'; exit 0", "exec sleep 60"]
)
async def test_a_program_that_has_none(
    tmp_path: Path, path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails, one that makes no sense, one that hangs."""
    monkeypatch.setattr(credentials, "ANSWER_S", 0.3 if "sleep" in script else 10.0)
    add_program(path, "store", script)
    assert await credentials_for(REGISTRY, configured(tmp_path, credsStore="store")) is None


async def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    """Without credentials an image is asked for as by anybody."""
    assert await credentials_for(REGISTRY, tmp_path) is None
    assert await credentials_for(REGISTRY, configured(tmp_path, credsStore="no-such-program")) is None
    assert await credentials_for(REGISTRY, configured(tmp_path, auths={REGISTRY: {"auth": "%"}})) is None
    (tmp_path / "config.json").write_text("{")
    assert await credentials_for(REGISTRY, tmp_path) is None
