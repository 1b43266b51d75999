"""Connections to a Docker daemon.

Rule: the certificates are read for each connection, so that new ones count from the next one on.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Final

import aiodocker
import aiohttp

from trunkline.docker.endpoint import Endpoint, TlsFiles

CONNECT_S: Final = 5.0
ANSWER_S: Final = 10.0

FAILURES: Final = (
    OSError,
    aiohttp.ClientError,
    aiodocker.DockerError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
"""What an exchange with a daemon raises; the last four, over an answer of another shape, by aiodocker as well."""

_UNREACHED = 900
"""Status of aiodocker for no connection."""


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint, *, answer_s: float = ANSWER_S) -> AsyncIterator[aiodocker.Docker]:
    """A client of the daemon, which has `answer_s` seconds for most answers.

    Raises one of `FAILURES` for certificates that cannot be used.
    """
    timeout = aiohttp.ClientTimeout(total=answer_s, sock_connect=CONNECT_S)
    # aiodocker makes connectors by the environment; this one is made by the endpoint alone.
    connector: aiohttp.BaseConnector
    if endpoint.url.startswith("unix://"):
        connector, url = aiohttp.UnixConnector(endpoint.url.removeprefix("unix://")), "http://docker"
    else:
        tls = context(endpoint.tls) if endpoint.tls is not None else None
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
        url = endpoint.url.replace("tcp:", "http:" if tls is None else "https:", 1)
    async with connector, aiodocker.Docker(url=url, connector=connector, timeout=timeout) as docker:
        yield docker


def context(files: TlsFiles) -> ssl.SSLContext:
    """What the daemon is spoken to with; raises OSError or ssl.SSLError with the file that cannot be used."""
    try:
        made = ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as error:
        raise ssl.SSLError(f"{files.ca} holds no certificates: {error.reason or error}") from None
    if files.cert is not None:
        try:
            # Without a password OpenSSL would ask for that of an encrypted key at the terminal.
            made.load_cert_chain(files.cert, files.key, password="")
        except ssl.SSLError as error:
            raise ssl.SSLError(f"{files.cert} and {files.key} are no certificate and its key: "
                               f"{error.reason or error}") from None  # fmt: skip
    if not files.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def reason(error: BaseException) -> str:
    """Why an exchange failed, in the daemon's words where it has answered."""
    if isinstance(error, aiodocker.DockerError):
        return _unreached_by(error) or error.message
    if isinstance(error, TimeoutError):
        return str(error) or "it did not answer in time"
    return str(error) or type(error).__name__


def _unreached_by(error: aiodocker.DockerError) -> str:
    """Why there is no connection, which aiodocker hides in a longer text; empty where there was one."""
    match error.__context__:
        case aiohttp.ClientConnectorCertificateError() as found:
            why = getattr(found.certificate_error, "verify_message", "") or str(found.certificate_error)
            return f"its certificate cannot be verified: {why}"
        case aiohttp.ClientConnectorError() as found:
            return found.os_error.strerror or str(found.os_error)
        case aiohttp.ClientConnectionError() as found:
            return str(found) or type(found).__name__
    return ""


def answered(error: aiodocker.DockerError) -> bool:
    """Whether the daemon itself has refused."""
    return error.status != _UNREACHED


def unreached(error: BaseException) -> bool:
    """Whether the daemon has not answered, so that the same may succeed later."""
    return not isinstance(error, aiodocker.DockerError) or not answered(error) or error.status >= 500
