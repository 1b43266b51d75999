"""Which daemon is meant, as the docker command finds it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from trunkline.docker.endpoint import SOCKET, Endpoint, TlsFiles, named, of_environment
from trunkline.errors import SettingsError


def add_context(home: Path, name: str, host: str, *files: str) -> Path:
    """Write a context as the docker command does; its directory of certificates."""
    folder = hashlib.sha256(name.encode()).hexdigest()
    contexts = home / ".docker" / "contexts"
    (contexts / "meta" / folder).mkdir(parents=True)
    meta = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
    (contexts / "meta" / folder / "meta.json").write_text(json.dumps(meta))
    tls = contexts / "tls" / folder / "docker"
    tls.mkdir(parents=True)
    for file in files:
        (tls / file).write_text("")
    return tls


def test_the_order_is_that_of_the_docker_command(tmp_path: Path) -> None:
    """DOCKER_HOST before DOCKER_CONTEXT before the context in use before the socket."""
    add_context(tmp_path, "staging", "unix:///run/staging.sock")
    add_context(tmp_path, "live", "unix:///run/live.sock")
    environ = {"HOME": str(tmp_path)}
    assert of_environment(environ).url == SOCKET
    (tmp_path / ".docker" / "config.json").write_text('{"auths": {}, "currentContext": "staging"}')
    assert of_environment(environ) == Endpoint("unix:///run/staging.sock", source="context staging")
    environ["DOCKER_CONTEXT"] = "live"
    assert of_environment(environ).url == "unix:///run/live.sock"
    environ["DOCKER_CONTEXT"] = "default"
    assert of_environment(environ).url == SOCKET
    environ["DOCKER_HOST"] = "tcp://10.0.0.9"
    assert of_environment(environ) == Endpoint("tcp://10.0.0.9:2375", source="DOCKER_HOST")
    assert of_environment({}).url == SOCKET


def test_certificates(tmp_path: Path) -> None:
    """Those of DOCKER_CERT_PATH with DOCKER_TLS_VERIFY, or those of the context; a socket needs none."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    environ = {"DOCKER_HOST": "10.0.0.9", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    assert of_environment(environ) == Endpoint("tcp://10.0.0.9:2376", files, "DOCKER_HOST")
    assert of_environment({**environ, "DOCKER_HOST": SOCKET}).tls is None
    tls = add_context(tmp_path, "live", "tcp://[fd00::9]:2376", "ca.pem", "cert.pem", "key.pem")
    found = of_environment({"HOME": str(tmp_path), "DOCKER_CONTEXT": "live"})
    assert found == Endpoint(
        "tcp://[fd00::9]:2376", TlsFiles(tls / "ca.pem", tls / "cert.pem", tls / "key.pem"), "context live"
    )
    assert found.host == "fd00::9"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """TLS that was asked for is never left out."""
    environ = {"DOCKER_HOST": "tcp://10.0.0.9", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"DOCKER_CERT_PATH: .* there is no ca.pem"):
        of_environment(environ)


def test_a_context_that_there_is_not(tmp_path: Path) -> None:
    """It is not quietly another daemon."""
    with pytest.raises(
        SettingsError, match=r"DOCKER_CONTEXT: 'gone' cannot be used; a context that `docker context ls`"
    ):
        of_environment({"HOME": str(tmp_path), "DOCKER_CONTEXT": "gone"})
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{")
    with pytest.raises(SettingsError, match=r"config\.json cannot be used"):
        of_environment({"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "url", ["/var/run/docker.sock", "unix://", "tcp://", "tcp://[", "tcp://host:port", "npipe:////./pipe/docker_engine"]
)
def test_wrong_addresses_are_named(url: str) -> None:
    """Only the daemon's socket or its TCP port can be used."""
    with pytest.raises(SettingsError, match=r"balancer\.docker: .* cannot be used; allowed: .unix:///var/run"):
        named(url, key="balancer.docker", environ={})


def test_over_ssh_there_is_another_way() -> None:
    """The message says which."""
    with pytest.raises(SettingsError, match=r"ssh -NL /tmp/docker\.sock:/var/run/docker\.sock"):
        named("ssh://me@host", key="DOCKER_HOST", environ={})
