"""What `trunkline health` asks: whether the server of a command line answers, in a process that never loads typer.

Rules:

- It runs every few seconds beside a server, so the plain command lines are read here and the question is one bare
  request; whatever is unusual about a command line (help, a mistake) is left to typer.
- The port comes from where the server has it: file, environment, and the options of its command line. Without a command
  line it is that of process 1, which in a container is the server, or the init that started it.
- `/healthz` says that the process is alive, and a container that fails it may be restarted. `/ready` says that it wants
  connections: a node whose bus is away does not, and must not be restarted for it, because that cuts its clients.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from trunkline.cli import node
from trunkline.errors import SettingsError

FAILED: Final = 1
TIMEOUT_S: Final = 2.5
"""For the whole question: less than the time-out of the image's health check, so that the reason is said in time."""

_PROGRAM: Final = "trunkline"
_HEAD_BYTES: Final = 4096


class Question(NamedTuple):
    """Whether it is ready rather than alive, and the command line that serves; none: that of process 1."""

    ready: bool
    line: tuple[str, ...]


class Place(NamedTuple):
    """Where the pages are that show a server's health."""

    host: str
    port: int


def read(argv: Sequence[str]) -> Question | None:
    """The question of `health`, None for a command line that typer has to read; `argv` has no program's name."""
    if not argv or argv[0] != "health" or {"-h", "--help"} & set(argv):
        return None
    ready = argv[1:2] == ["--ready"]
    line = tuple(argv[2 if ready else 1 :])
    return None if line and line[0].startswith("-") else Question(ready, line)


def run(question: Question, first_process: Path = Path("/proc/1/cmdline")) -> int:
    """Ask; returns the exit code, 0 when it is well. Raises SettingsError.

    Args:
        question: what to ask.
        first_process: the file with the command line of process 1.
    """
    line = question.line or line_of(_words(first_process))
    if line is None:
        print("trunkline: process 1 is no trunkline command; name what to ask: trunkline health serve", file=sys.stderr)
        return FAILED
    place = place_of(line)
    if place is None:
        if question.line:
            raise SettingsError(line[0], allowed="allowed: serve or balance, with their options")
        print(f"trunkline {line[0]} has no page to ask; it runs")
        return 0
    path = "/ready" if question.ready else "/healthz"
    shown = f"[{place.host}]" if ":" in place.host else place.host
    try:
        status, text = ask(place, path)
    except OSError as error:
        reason = f"does not answer: {error.strerror or error}"
    else:
        if status == 200:
            print(text)
            return 0
        reason = f"answers {status}: {text}" if status else "answers no HTTP"
    print(f"trunkline: http://{shown}:{place.port}{path} {reason}", file=sys.stderr)
    return FAILED


def line_of(words: Sequence[str]) -> tuple[str, ...] | None:
    """The command line of trunkline among the words of a process, without the program's name; None: there is none."""
    for index, word in enumerate(words):
        if word.rpartition("/")[2] == _PROGRAM:
            return tuple(words[index + 1 :]) or None
    return None


def place_of(line: Sequence[str]) -> Place | None:
    """Where the server of a command line is asked; None for a command that serves nothing. Raises SettingsError."""
    from trunkline.settings.load import load

    if "--ready" in line:
        raise SettingsError("--ready", allowed=f"it stands before the command: trunkline health --ready {line[0]}")
    if line[0] == "serve":
        arguments = node.read([word for word in line if word != "--reload"])
        if arguments is None:
            raise SettingsError(" ".join(line), allowed="its options must be those of `trunkline serve`")
        server = load(arguments.config_file, os.environ, arguments.flags).settings.server
        return Place(node.reached(server.host), _known("server.port", server.port))
    if line[0] == "balance":
        given = _options(line[1:], "--listen", "--config")
        listen, file = given.get("--listen"), given.get("--config")
        flags = {"balancer.port": listen.rpartition(":")[2] if listen else None}
        balancer = load(Path(file) if file else None, os.environ, flags).settings.balancer
        if balancer.admin_port is not None:
            return Place(node.reached(balancer.admin_host), _known("balancer.admin_port", balancer.admin_port))
        return Place(node.reached(balancer.admin_host), _known("balancer.port", balancer.port) + 1)
    if line[0].startswith("-"):
        raise SettingsError(line[0], allowed="allowed: --ready, then a command such as serve, with its options")
    return None


def ask(place: Place, path: str) -> tuple[int, str]:
    """Status and first line of the answer's body to a GET; status 0 for what is no HTTP. Raises OSError."""
    until = time.monotonic() + TIMEOUT_S
    host = f"[{place.host}]" if ":" in place.host else place.host
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{place.port}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(place, timeout=TIMEOUT_S) as sock:
        sock.sendall(request.encode())
        answer = b""
        while len(answer) < _HEAD_BYTES:
            sock.settimeout(max(0.001, until - time.monotonic()))  # a server may send a byte at a time
            piece = sock.recv(_HEAD_BYTES)
            if not piece:
                break
            answer += piece
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    version, _, status = head.partition("\r\n")[0].partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        return 0, ""
    return int(status[:3]), body.strip().partition("\n")[0]


def _words(first_process: Path) -> list[str]:
    try:
        # Each word ends with a null, the last one too.
        return first_process.read_text(errors="replace").removesuffix("\0").split("\0")
    except OSError:
        return []


def _options(words: Sequence[str], *wanted: str) -> dict[str, str]:
    """The values of some options; the last of two counts."""
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in wanted:
            found[option] = value if equals else next(iter(words[index + 1 :]), "")
    return found


def _known(key: str, port: int) -> int:
    if port == 0:
        raise SettingsError(key, value="0", allowed="`trunkline health` needs a fixed port to ask")
    return port
