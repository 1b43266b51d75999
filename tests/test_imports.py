"""The import diet: what a process loads is what it runs; a list that grows here costs every start and every process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import trunkline
from tests.support.environment import environment
from tests.support.patience import patient

HEAVY = frozenset(
    {
        "aiohttp", "cryptography", "dns", "jwt", "nats", "prometheus_client", "psutil", "pydantic", "rich", "structlog",
        "typer", "uvloop", "yaml",
    }
)  # fmt: skip
"""Third parties that cost megabytes or tenths of a second."""

LIST_AT_EXIT = """
import atexit, json, sys
file = sys.argv.pop()
atexit.register(lambda: open(file, "w").write(json.dumps(sorted(sys.modules))))
"""
COMMAND = f"{LIST_AT_EXIT}\nfrom trunkline.cli import main\nmain()\n"


def start(tmp_path: Path, program: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """Run a Python program that writes what it has loaded when it ends."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments, str(tmp_path / "modules.json")],
        cwd=tmp_path, env=environment(tmp_path, **environ), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def loaded(process: subprocess.Popen[str], tmp_path: Path) -> set[str]:
    """Its modules, once it has ended well."""
    process.communicate(timeout=patient(30))
    assert process.returncode == 0
    return set(json.loads((tmp_path / "modules.json").read_text()))


def heavy(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} & HEAVY


def rooms(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("trunkline.")}


def test_the_package_alone(tmp_path: Path) -> None:
    """`import trunkline` loads the version and nothing else; an exception comes with its own module only."""
    modules = loaded(start(tmp_path, f"{LIST_AT_EXIT}\nimport trunkline"), tmp_path)
    assert rooms(modules) == {"version"}
    assert not modules & {"asyncio", "msgspec"}
    modules = loaded(start(tmp_path, f"{LIST_AT_EXIT}\nfrom trunkline import Refused"), tmp_path)
    assert rooms(modules) == {"version", "errors"}


def test_an_application(tmp_path: Path) -> None:
    """What applications import brings no third party but msgspec and the routine that unmasks."""
    modules = loaded(start(tmp_path, f"{LIST_AT_EXIT}\nfrom trunkline import App, Client, Endpoint"), tmp_path)
    assert heavy(modules) == set()
    assert "trunkline.server.node.node" not in modules
    assert "trunkline.settings.sections" not in modules


def test_public_names() -> None:
    """Every public name is there, and `dir` lists it; another one is an AttributeError."""
    for name in trunkline.__all__:
        assert getattr(trunkline, name) is not None
        assert name in dir(trunkline)
    with pytest.raises(AttributeError, match="Nothing"):
        trunkline.Nothing  # noqa: B018


def test_a_small_command(tmp_path: Path) -> None:
    """`config show` into a pipe: typer with what it brings, and the settings; `--help` not even these."""
    modules = loaded(start(tmp_path, COMMAND, "config", "show"), tmp_path)
    assert heavy(modules) == {"typer", "pydantic"}
    assert rooms(modules) <= {"bus", "cli", "errors", "monitor", "server", "settings", "version", "protocol", "logs"}
    assert not {name for name in modules if name.startswith("trunkline.server.")} - {
        "trunkline.server.channels",
        "trunkline.server.channels.rules",
        "trunkline.server.connections",
        "trunkline.server.connections.identity",
    }
    for line in (("--help",), ("load", "--help")):
        assert rooms(loaded(start(tmp_path, COMMAND, *line), tmp_path)) <= {"cli", "errors", "monitor", "version"}


def test_a_fleets_own_process(tmp_path: Path) -> None:
    """`up` into a pipe starts its parts and loads none of them, and asks them without an HTTP client's library."""
    process = start(tmp_path, COMMAND, "up", "--json", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "addresses":
            break
    process.send_signal(signal.SIGTERM)
    modules = loaded(process, tmp_path)
    assert heavy(modules) <= {"typer", "pydantic", "uvloop", "psutil"}
    assert not rooms(modules) & {"server", "balancer", "bus", "load", "placement", "metrics", "websocket", "net"}


def test_a_served_node(tmp_path: Path, unused_tcp_port: int) -> None:
    """`serve` on the memory bus, from its command line on: no typer; structlog, which writes its log, brings rich."""
    line = ("serve", "--host", "127.0.0.1", "--port", "0", "--bus", "memory")
    process = start(tmp_path, COMMAND, *line, TRUNKLINE_ADMIN_PORT=str(unused_tcp_port))
    assert process.stdout is not None
    assert "event" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert heavy(loaded(process, tmp_path)) <= {"structlog", "rich", "uvloop", "psutil"}


def test_the_bus_over_nats(tmp_path: Path) -> None:
    """nats-py comes without aiohttp, which can still be imported afterwards."""
    program = f"{LIST_AT_EXIT}\nimport trunkline.bus.nats.bus"
    assert "aiohttp" not in heavy(loaded(start(tmp_path, program), tmp_path))
    loaded(start(tmp_path, f"{program}\nfrom aiohttp import web\nassert web.Application"), tmp_path)


def test_a_balancer_without_a_bus(tmp_path: Path) -> None:
    """A relay before listed backends loads neither NATS nor a resolver; its HTTP is aiohttp's."""
    program = f"{LIST_AT_EXIT}\nimport trunkline.balancer.service"
    assert heavy(loaded(start(tmp_path, program), tmp_path)) <= {"aiohttp", "structlog", "rich", "uvloop"}
