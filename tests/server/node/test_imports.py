"""What a node loads: only what it runs. Looked at in processes of their own, since a test session has loaded it all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.patience import patient

IMPORT = """
import json, sys
import trunkline.server.node.node
print(json.dumps(sorted(sys.modules)))
"""

RUN = """
import asyncio, json, sys, tempfile, os
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
from trunkline import App
from trunkline.server.node.node import Node
from trunkline.settings.admin import AdminSettings
from trunkline.settings.sections import ServerSettings, Settings

async def ask(port, path, headers=""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n{headers}\\r\\n".encode())
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    writer.close()

async def main():
    app = App()

    @app.websocket("/echo")
    async def echo(client):
        async for message in client:
            await client.send(message)

    settings = Settings(server=ServerSettings(host="127.0.0.1", port=0), admin=AdminSettings(port=int(sys.argv[1])))
    node = Node(settings, app)
    await node.start()
    for path in ("/health", "/metric", "/metrics", "/api/stats"):
        await ask(node.port, path)
    await ask(node.admin.port, "/api/connections", f"Authorization: Bearer {node.admin.token}\\r\\n")
    modules = sorted(sys.modules)
    await node.stop(drain_ms=0, deadline_ms=300)
    print(json.dumps(modules))

asyncio.run(main())
"""


def loaded(script: str, directory: Path, *arguments: str) -> set[str]:
    """The packages that a process has loaded at the end of a script."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=directory, capture_output=True, text=True, timeout=patient(20.0), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


UNUSED = {"aiohttp", "nats", "jwt", "cryptography", "typer", "click"}


def test_importing_a_node_loads_no_clients(tmp_path: Path) -> None:
    """The module of a node brings neither HTTP and NATS clients nor tokens, the command line or the logging library."""
    assert not loaded(IMPORT, tmp_path) & {*UNUSED, "structlog", "rich"}


def test_a_memory_node_loads_no_clients(tmp_path: Path, unused_tcp_port: int) -> None:
    """Nor does a running one on the memory bus, admin port included; structlog, which writes its log, brings rich."""
    assert not loaded(RUN, tmp_path, str(unused_tcp_port)) & UNUSED
