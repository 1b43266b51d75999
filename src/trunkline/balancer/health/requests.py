"""The HTTP client for the balancer's own requests to backends: checks and load reports.

Rules: neither the environment nor an earlier answer has influence (no proxies, no cookies, no redirects); what is read
of an answer is bounded, and never unpacked.
"""

from __future__ import annotations

import ssl
from typing import Final

import aiohttp
from aiohttp import hdrs

from trunkline.net.staggered import DELAY_S
from trunkline.version import __version__

LONGEST_REASON: Final = 120


def open_session(tls: ssl.SSLContext, *, timeout_s: float, keep_alive: bool) -> aiohttp.ClientSession:
    """A client for backends, `tls` for those that speak it; close it."""
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_no_redirect)
    return aiohttp.ClientSession(
        # Names are resolved for each connection: a cached address would hide that a backend has moved.
        connector=aiohttp.TCPConnector(
            ssl=tls,
            limit=0,
            force_close=not keep_alive,
            use_dns_cache=False,
            happy_eyeballs_delay=DELAY_S,
            interleave=1,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={hdrs.USER_AGENT: f"trunkline-balancer/{__version__}", hdrs.ACCEPT_ENCODING: "identity"},
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[trace],
    )


async def read_at_most(answer: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body, None when it is longer than `limit` bytes; then no more than that was read."""
    if answer.content_length is not None and answer.content_length > limit:
        return None
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def reason_of(error: BaseException) -> str:
    """Why there was no answer, with nothing of the answer's content."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        # With 101 it is aiohttp that found a header of the answer false.
        return f"handshake answered with status {error.status}" + (f": {error.message}" if error.status == 101 else "")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"certificate not trusted: {error.certificate_error}"[:LONGEST_REASON]
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, aiohttp.ClientConnectorError):
        system = error.os_error
        return f"cannot connect: {system.strerror or type(system).__name__}"[:LONGEST_REASON]
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer breaks off"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is no HTTP"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:LONGEST_REASON]
    return type(error).__name__


FAULTS: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What a request may end with; ValueError is aiohttp's for a URL or a head that it cannot take."""


class Redirected(aiohttp.ClientError):
    """The backend redirects, which is not followed: what is there proves nothing about the backend."""


async def _no_redirect(session: object, context: object, params: aiohttp.TraceRequestRedirectParams) -> None:
    # For a plain request there is an option; for aiohttp's WebSocket handshake this is the only way.
    raise Redirected(f"status {params.response.status}")
