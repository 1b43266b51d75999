"""Credentials of a registry, where `docker login` has put them.

Rules:

- As with `docker`, the program that `credHelpers` names for a registry is asked first, then that of `credsStore`, then
  `auths` is read. A program that is missing, fails or hangs has none.
- They are handed to the daemon with a pull alone, and are in no message.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

HUB: Final = "https://index.docker.io/v1/"
"""What Docker Hub is called in the configuration."""

ANSWER_S: Final = 10.0
_TOKEN = "<token>"  # noqa: S105 - what a program of credentials calls a user who has a token alone


class Credentials(msgspec.Struct, frozen=True, rename="lower", omit_defaults=True):
    """As the Engine's API takes them: a name and its password, or a token."""

    username: str = ""
    password: str = ""
    identity_token: str = msgspec.field(name="identitytoken", default="")


class _Entry(msgspec.Struct, rename="lower"):
    auth: str = ""
    identity_token: str = msgspec.field(name="identitytoken", default="")


class _Config(msgspec.Struct, rename="camel"):
    auths: Mapping[str, _Entry] = {}
    creds_store: str = ""
    cred_helpers: Mapping[str, str] = {}


class _Answer(msgspec.Struct, rename="pascal"):
    username: str
    secret: str


def registry_of(image: str) -> str:
    """The registry that an image is pulled from, as the configuration names it."""
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host and first != "docker.io" else HUB


async def credentials_for(registry: str, folder: Path) -> Credentials | None:
    """Those of a registry in the configuration of a directory; None when there are none."""
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    except (OSError, msgspec.MsgspecError):
        return None
    if program := config.cred_helpers.get(registry) or config.creds_store:
        return await _ask(f"docker-credential-{program}", registry)
    for name, entry in config.auths.items():
        if _host(name) == _host(registry):
            return _of_entry(entry)
    return None


def _host(registry: str) -> str:
    return registry.partition("://")[2].partition("/")[0] if "://" in registry else registry.partition("/")[0]


def _of_entry(entry: _Entry) -> Credentials | None:
    if entry.identity_token:
        return Credentials(identity_token=entry.identity_token)
    try:
        name, _, password = base64.b64decode(entry.auth).decode().partition(":")
    except ValueError:
        return None
    return Credentials(name, password.rstrip("\0")) if name else None


async def _ask(program: str, registry: str) -> Credentials | None:
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return None
    try:
        async with asyncio.timeout(ANSWER_S):
            said, _ = await process.communicate(registry.encode())
        answer = msgspec.json.decode(said, type=_Answer)
    except (TimeoutError, msgspec.MsgspecError):
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        return None
    if answer.username == _TOKEN:
        return Credentials(identity_token=answer.secret)
    return Credentials(answer.username, answer.secret)
