"""A real daemon that is reached over TLS alone, by a source of backends and by a runtime of deploys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.balancer.authority import Authority
from tests.support.balancer.told_lists import running
from tests.support.docker.labelled import LabelledContainers, labelled_containers

pytest.importorskip("aiodocker", reason="Docker needs the package aiodocker")
from trunkline.balancer.sources.docker.containers import DockerSource
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.docker.runtime import DockerRuntime, Scope
from trunkline.docker.endpoint import Endpoint, of_environment

PORT = 2376
BLUE = {"trunkline.enable": "true", "trunkline.colour": "blue"}
SCOPE = Scope("d1", "blue", "green")


def write_files(authority: Authority, folder: Path, name: str) -> Path:
    """The three files of one side, as the docker command names them."""
    folder.mkdir()
    cert, key = authority.sign(folder / "both.pem", name)
    (folder / "ca.pem").write_bytes(authority.file.read_bytes())
    (folder / "cert.pem").write_bytes(cert)
    (folder / "key.pem").write_bytes(key)
    return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def client_files(authority: Authority) -> Path:
    return write_files(authority, authority.folder / "client", "client")


@pytest.fixture(scope="module")
def shared_daemon(authority: Authority) -> Iterator[LabelledContainers]:
    files = write_files(authority, authority.folder / "daemon", "daemon")
    with labelled_containers(
        "--host", f"tcp://127.0.0.1:{PORT}", "--tlsverify", "--tlscacert", str(files / "ca.pem"),
        "--tlscert", str(files / "cert.pem"), "--tlskey", str(files / "key.pem"),
    ) as daemon:  # fmt: skip
        yield daemon


@pytest.fixture
async def environ(shared_daemon: LabelledContainers, client_files: Path) -> AsyncIterator[dict[str, str]]:
    """What a person who uses this daemon has set."""
    await shared_daemon.run("websocket-blue", BLUE)
    async with shared_daemon.namespace.forwarded(PORT) as port:
        yield {
            "DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(client_files),
        }  # fmt: skip
    await shared_daemon.clear()


async def test_both_sides_prove_who_they_are(environ: dict[str, str]) -> None:
    """Backends are found, and containers started and removed, over one and the same endpoint."""
    endpoint = of_environment(environ)
    async with running(DockerSource(endpoint)) as lists:
        await lists.until(lambda specs: [spec.name for spec in specs] == ["websocket-blue"])
        runtime = DockerRuntime(endpoint, SCOPE)
        assert await runtime.check("green", What()) == ""
        await runtime.ensure("green", 1, What())
        await lists.until(lambda specs: [spec.group for spec in specs] == ["blue", "green"])
        await runtime.remove("green")
        await lists.until(lambda specs: [spec.group for spec in specs] == ["blue"])


async def test_a_daemon_of_another_authority_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    """Who answers there is not the daemon that was meant."""
    other = tmp_path / "other"
    other.mkdir()
    files = write_files(Authority(other), tmp_path / "files", "client")
    runtime = DockerRuntime(of_environment({**environ, "DOCKER_CERT_PATH": str(files)}), SCOPE)
    assert "cannot be reached: its certificate cannot be verified: " in await runtime.check("green", What())


async def test_without_a_certificate_the_daemon_refuses(environ: dict[str, str]) -> None:
    """It asks for one; without TLS it does not answer at all."""
    bare = Endpoint(environ["DOCKER_HOST"])
    assert "HTTPS server" in await DockerRuntime(bare, SCOPE).check("green", What())


async def test_new_certificates_count_from_the_next_connection_on(
    environ: dict[str, str], authority: Authority, client_files: Path, tmp_path: Path
) -> None:
    """Files that no longer hold a certificate are named; once they do again, nothing has to be started again."""
    folder = tmp_path / "files"
    write_files(authority, folder, "client")
    (folder / "key.pem").write_text("no key")
    runtime = DockerRuntime(of_environment({**environ, "DOCKER_CERT_PATH": str(folder)}), SCOPE)
    assert f"{folder}/cert.pem and {folder}/key.pem are no certificate and its key" in await runtime.check(
        "green", What()
    )
    for name in ("cert.pem", "key.pem"):
        (folder / name).write_bytes((client_files / name).read_bytes())
    assert await runtime.check("green", What()) == ""
