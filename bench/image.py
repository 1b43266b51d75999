"""Our image beside plain ones from the same local base: what it adds to the base, and how soon it takes a WebSocket.

The daemon is one of the tests' own; images share base, interpreter and wheels, so what differs is what is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.image import IMAGE, add_image, build
from tests.support.docker.namespace import CannotRun
from tests.support.docker.python_base import BUILDER, PYTHON, add_bases

from bench.errors import BenchError
from bench.rows import Options, Result, compare, in_turn
from bench.servers import HERE

OURS, NODE_ALONE = "trunkline", "trunkline, node alone"
PEERS: Final = {
    "uvicorn": (["uvicorn[standard]"], "uvicorn_app.py", ["python", "-m", "uvicorn", "uvicorn_app:app", "--port"]),
    "websockets": (["websockets", "uvloop"], "websockets_server.py", ["python", "websockets_server.py"]),
}
"""What is installed, the program, and its command line before the port."""

PORT: Final = "3001"
START_LIMIT = 1.5
READY_S: Final = 30.0
_EVERY_S: Final = 0.005
_HANDSHAKE: Final = (
    f"GET /ws/echo HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


def run(options: Options) -> Result:
    """Build the images, weigh them, and start them in turn."""
    try:
        daemon = DockerDaemon()
        daemon.start()
    except CannotRun as why:
        raise BenchError(str(why)) from None
    try:
        add_bases(daemon)
        add_image(daemon)
        peers = ["websockets"] if options.quick else list(PEERS)
        images = {OURS: IMAGE, **{name: _peer(daemon, name) for name in peers}}
        sizes = {name: [_added_mb(daemon, image)] for name, image in images.items()}
        if not options.quick:
            build(daemon, "node:1", "--build-arg", "EXTRAS=")
            sizes[NODE_ALONE] = [_added_mb(daemon, "node:1")]
        starts = in_turn(list(images), options.runs, lambda name: _start_ms(daemon, name, images[name]))
    except (CannotRun, RuntimeError) as why:
        raise BenchError(str(why)) from None
    finally:
        daemon.remove()
    weighed: dict[str, float | None] = dict.fromkeys(PEERS)
    rows = compare("image without its base", sizes, "MB", weighed)
    if NODE_ALONE in sizes:
        rows += compare("image without its base, no extras (EXTRAS=)", sizes, "MB", weighed, ours=NODE_ALONE)
    limits: dict[str, float | None] = dict.fromkeys(PEERS, START_LIMIT)
    rows += compare("from `docker start` to the 101 of a WebSocket", starts, "ms", limits)
    return Result(rows, ["In the host's network, as uid 10001, read-only and without capabilities for ours."])


def _peer(daemon: DockerDaemon, name: str) -> str:
    """A plain image of a peer, made as ours is: an environment that is copied onto the base."""
    wheels, program, command = PEERS[name]
    with tempfile.TemporaryDirectory() as directory:
        context = Path(directory)
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "-d", context / "wheels", *wheels],
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        if fetched.returncode:
            raise BenchError(f"the wheels of {name} cannot be fetched: {fetched.stderr.strip()[-300:]}")
        shutil.copy(HERE / "peers" / program, context)
        arguments = ", ".join(f'"{word}"' for word in [*command, PORT])
        install = f"python3 -m pip --python /opt/app/bin/python install --find-links wheels {' '.join(wheels)}"
        (context / "Dockerfile").write_text(
            f"FROM {BUILDER} AS build\nCOPY wheels wheels\n"
            f"RUN python3 -m venv --without-pip /opt/app && {install}\n"
            f"FROM {PYTHON}\nCOPY --from=build /opt/app /opt/app\nENV PATH=/opt/app/bin:$PATH\nWORKDIR /app\n"
            f"COPY {program} .\nCMD [{arguments}]\n"
        )
        daemon.docker("build", "--quiet", "--tag", f"{name}:1", context, within_s=120)
    return f"{name}:1"


def _added_mb(daemon: DockerDaemon, image: str) -> float:
    def size(name: str) -> int:
        return int(daemon.docker("inspect", "--format", "{{.Size}}", name))

    return (size(image) - size(PYTHON)) / 1e6


def _start_ms(daemon: DockerDaemon, name: str, image: str) -> float:
    """Time until a handshake is answered, of a container that was created before."""
    shut = ("--read-only", "--cap-drop=ALL") if name == OURS else ()
    daemon.docker("create", "--name=one", "--network=host", *shut, image)
    try:
        began = time.perf_counter()
        daemon.docker("start", "one")
        while not _shakes_hands(daemon):
            if time.perf_counter() - began > READY_S:
                raise BenchError(f"{name} does not start: {daemon.docker('logs', 'one')}")
            time.sleep(_EVERY_S)
        return (time.perf_counter() - began) * 1000
    finally:
        daemon.docker("rm", "--force", "one")


def _shakes_hands(daemon: DockerDaemon) -> bool:
    try:
        with daemon.namespace.connect("127.0.0.1", int(PORT)) as sock:
            sock.sendall(_HANDSHAKE)
            return sock.recv(12).startswith(b"HTTP/1.1 101")
    except OSError:
        return False
