"""Tokens for the API server: none, a fixed one, one in a file that is renewed, or what a program prints.

Rules:

- A token of a service account lives for an hour or less, and the kubelet writes the next one to the same file. The file
  is read for each request: it is small, in memory, and requests are few.
- After a 401 a request is made once more if there is another token by then.
- Tokens are in no log line and no error text.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from trunkline.errors import StartError
from trunkline.kubernetes.failures import ApiFailed
from trunkline.process.whole_files import read_stripped
from trunkline.settings.secret import Secret

PROGRAM_S: Final = 60.0
"""Time that a program has to hand out credentials: some of them ask a person."""

EARLY_S: Final = 30.0
"""Seconds before its end at which a token that a program handed out is replaced."""


class Credentials(Protocol):
    """Hands out tokens."""

    async def token(self) -> Secret:
        """The token of the next request, empty for none; raises ApiFailed when it cannot be had."""

    async def refused(self, token: Secret) -> bool:
        """The server did not accept `token`: whether there is another one now."""


class FixedToken:
    """One token for ever; an empty one is none, as with client certificates."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    async def token(self) -> Secret:
        """The token."""
        return self._token

    async def refused(self, token: Secret) -> bool:
        """There is no other."""
        return False


class FileToken:
    """The token that a file has at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> Secret:
        """What the file has; raises ApiFailed when it cannot be read or is empty."""
        try:
            found = read_stripped(self._path, "the service account of the pod, or tokenFile in the kubeconfig")
        except StartError as error:
            raise ApiFailed(str(error)) from None
        if not found or not found.isascii() or not found.isprintable():
            raise ApiFailed(f"{self._path} holds no token")
        return Secret(found)

    async def refused(self, token: Secret) -> bool:
        """Whether the file has been written since."""
        return await self.token() != token


class _Issued(msgspec.Struct, rename="camel"):
    token: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    status: _Issued


class ProgramToken:
    """The token that a program prints as an ExecCredential; it runs again before the token ends, and after a 401.

    Args:
        command: the program and its arguments.
        extra: variables of its environment beside this process's own.
        version: `apiVersion` that it is asked in.
        hint: what the kubeconfig says about installing it.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
    """

    def __init__(self, command: tuple[str, ...], extra: Mapping[str, str], version: str, hint: str = "") -> None:
        self._command = command
        asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
        self._environ = {**extra, "KUBERNETES_EXEC_INFO": msgspec.json.encode(asked).decode()}
        self._hint = f". {hint}" if hint else ""
        self._token: Secret | None = None
        self._ends_at = float("inf")
        self._running = asyncio.Lock()

    async def token(self) -> Secret:
        """The last one while it is valid, else the next; raises ApiFailed when the program does not give one."""
        async with self._running:
            # By the wall clock, as the end of a token is.
            if self._token is None or time.time() > self._ends_at - EARLY_S:
                issued = await self._run()
                self._token = Secret(issued.token)
                ends = issued.expiration_timestamp
                self._ends_at = ends.timestamp() if ends is not None else float("inf")
            return self._token

    async def refused(self, token: Secret) -> bool:
        """Ask the program again."""
        if token == self._token:
            self._token = None
        return await self.token() != token

    async def _run(self) -> _Issued:
        name = self._command[0]
        environ = {**os.environ, **self._environ}
        try:
            program = await asyncio.create_subprocess_exec(
                *self._command, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise ApiFailed(f"{name}, which hands out credentials, cannot run: {error.strerror}{self._hint}") from None
        try:
            async with asyncio.timeout(PROGRAM_S):
                printed, _ = await program.communicate()
        except TimeoutError:
            raise ApiFailed(f"{name} handed out no credentials within {PROGRAM_S:g} s") from None
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        if program.returncode:
            raise ApiFailed(f"{name} handed out no credentials and ended with {program.returncode}{self._hint}")
        try:
            issued = msgspec.json.decode(printed, type=_ExecCredential).status
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ApiFailed(f"{name} printed no ExecCredential") from None
        if not issued.token:
            raise ApiFailed(f"{name} printed an ExecCredential without a token; client certificates are not taken")
        return issued
