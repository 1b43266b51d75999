"""What `trunkline serve` runs: one node, in a process that never loads typer.

typer and pydantic would stay in the server's memory for its life, 10 MB of it. So the plain command lines of `serve`
are read here; whatever is unusual about one (help, a mistake, `--reload`) is left to typer, which reads all of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from trunkline.settings.sections import ServerSettings, Settings

OPTIONS: Final = {
    "--host": "server.host",
    "--port": "server.port",
    "--name": "server.name",
    "--colour": "server.colour",
    "--bus": "bus.url",
}
"""Options with one value, by the setting that each overrides."""


class Arguments(NamedTuple):
    """Settings that the command line overrides, and its settings file."""

    flags: Mapping[str, str | int | None]
    config_file: Path | None


def read(argv: Sequence[str]) -> Arguments | None:
    """The arguments of `serve`, None for a command line that typer has to read; `argv` has no program's name."""
    if not argv or argv[0] != "serve":
        return None
    flags: dict[str, str | int | None] = {}
    config_file = None
    rest = iter(argv[1:])
    for word in rest:
        if not word.startswith("-"):
            if "server.app" in flags:
                return None
            flags["server.app"] = word
            continue
        option, equals, value = word.partition("=")
        if not equals:
            value = next(rest, "-")
            if value.startswith("-"):
                return None
        if option == "--config":
            config_file = Path(value)
        elif option not in OPTIONS or (option == "--port" and not (value.isascii() and value.isdigit())):
            return None
        else:
            flags[OPTIONS[option]] = int(value) if option == "--port" else value
    return Arguments(flags, config_file)


def run(flags: Mapping[str, str | int | None], config_file: Path | None) -> int:
    """Run a node until SIGTERM or Ctrl-C; returns the exit code. Raises SettingsError and StartError."""
    from trunkline.logs import configure as log_setup
    from trunkline.process import lifecycle
    from trunkline.settings.load import load

    loaded = load(config_file, os.environ, flags)
    settings = loaded.settings
    log_setup.configure(settings.log, service="trunkline-node", node=settings.server.name or "")

    def again() -> Settings:
        # A file that was read must be there again: without it all its settings would be gone.
        return load(loaded.file or config_file, os.environ, flags).settings

    return lifecycle.run(lambda: _serve(settings, again, loaded.sources["server.host"] == "default"))


def reached(host: str) -> str:
    """The address by which a server that listens on `host` is reached from its own machine."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def greeting(server: ServerSettings, port: int, *, host_is_default: bool) -> list[str]:
    """What a person is told who has started a node that listens on `port`, line by line.

    Nothing for a node that is advertised: it has an edge before it, and its own address is for nobody else.
    """
    if server.advertise is not None:
        return []
    shown = reached(server.host)
    lines = [f"serving on http://{f'[{shown}]' if ':' in shown else shown}:{port}/"]
    if host_is_default and shown != server.host:
        lines.append(
            f"listening on all interfaces ({server.host}), which is the default; for this machine alone, "
            "start it with --host 127.0.0.1, or set HOST or server.host"
        )
    return lines


async def _serve(settings: Settings, again: Callable[[], Settings], host_is_default: bool) -> int:
    from trunkline.logs.configure import with_level
    from trunkline.process import lifecycle
    from trunkline.server.app.load_app import load_app
    from trunkline.server.node.node import Node
    from trunkline.settings.reload import Reload
    from trunkline.settings.reloaded import NODE

    signals = lifecycle.Signals(reloads=True)
    node = Node(settings, load_app(settings.server.app))
    reload = Reload(settings, again, NODE, with_level(node.prepare), node.reloads)
    if await lifecycle.started(signals, node.start()):
        # The terminal may have been closed, or whatever read the lines; the node is up without them.
        with contextlib.suppress(OSError):
            for line in greeting(settings.server, node.port, host_is_default=host_is_default):
                print(f"trunkline: {line}", file=sys.stderr, flush=True)
        lifecycle.spare_collector()
    await lifecycle.serve_until_stopped(signals, node.stop, reload)
    return 0
