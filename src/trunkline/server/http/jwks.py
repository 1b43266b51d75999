"""Public keys from a JWKS address (RFC 7517): fetched, kept and refreshed.

A failed fetch leaves the old keys in use. An unknown key id causes another fetch, but not more often than every half
minute, so that invented ids cannot turn this node into a flood on the address. aiohttp is imported at the first fetch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from trunkline.logs.logger import get_logger
from trunkline.process.bounds import end_tasks

MAX_JWKS_BYTES = 256 * 1024
JWKS_TIMEOUT_S = 5.0
JWKS_MAX_AGE_S = 600.0
JWKS_UNKNOWN_KEY_S = 30.0
"""Least time between two fetches that unknown key ids cause."""
JWKS_RETRY_S = 5.0
"""Least time between two fetches when the last one failed."""
MIN_RSA_BITS = 2048

PublicKey = RSAPublicKey | EllipticCurvePublicKey

_log = get_logger("trunkline.tokens")


def algorithm_of(key: object) -> str | None:
    """The algorithm that a public key verifies, None for a key that is not accepted."""
    if isinstance(key, RSAPublicKey):
        return "RS256" if key.key_size >= MIN_RSA_BITS else None
    if isinstance(key, EllipticCurvePublicKey):
        return "ES256" if isinstance(key.curve, SECP256R1) else None
    return None


class _JwkSet(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse_jwks(document: bytes, algorithms: frozenset[str]) -> dict[tuple[str, str | None], PublicKey]:
    """The usable public keys of a JSON Web Key Set (RFC 7517), by algorithm and key id; ValueError when it is none.

    Keys of other kinds, secrets among them, keys for encryption and keys that do not parse are left out.
    """
    found: dict[tuple[str, str | None], PublicKey] = {}
    for entry in msgspec.json.decode(document, type=_JwkSet).keys:
        if entry.get("kty") not in ("RSA", "EC") or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        algorithm = algorithm_of(key)
        if algorithm is None or algorithm not in algorithms or entry.get("alg", algorithm) != algorithm:
            continue
        kid = entry.get("kid")
        if isinstance(key, PublicKey):
            found[algorithm, kid if isinstance(kid, str) else None] = key
    return found


class RemoteKeys:
    """The keys of one JWKS address, kept and refreshed; all fetches at a time are one."""

    def __init__(self, url: str, algorithms: frozenset[str], now: Callable[[], float]) -> None:
        self._url = url
        self._algorithms = algorithms
        self._now = now
        self._keys: dict[tuple[str, str | None], PublicKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    def is_for(self, url: str, algorithms: frozenset[str]) -> bool:
        """Whether these are the keys of that address, for those algorithms."""
        return (self._url, self._algorithms) == (url, algorithms)

    @property
    def fetched(self) -> bool:
        """Whether a key set was ever had."""
        return self._fetched_at is not None

    def find(self, algorithm: str, kid: object) -> PublicKey | None:
        """The key of this id; a token without an id may mean the only key of its algorithm."""
        if isinstance(kid, str):
            return self._keys.get((algorithm, kid))
        candidates = [key for (name, _), key in self._keys.items() if name == algorithm]
        return candidates[0] if len(candidates) == 1 else None

    def may_ask_again(self) -> bool:
        """Whether a fetch is under way or allowed now."""
        return self.ask_again_in() <= 0

    def ask_again_in(self) -> float:
        """Seconds until a fetch is allowed; 0 while one is under way."""
        if self._fetching is not None or self._tried_at is None:
            return 0.0
        return max(self._tried_at + (JWKS_RETRY_S if self._failed else JWKS_UNKNOWN_KEY_S) - self._now(), 0.0)

    def refresh_if_old(self) -> None:
        """Begin a fetch in the background when the keys are old."""
        if self._fetched_at is not None and self._now() - self._fetched_at > JWKS_MAX_AGE_S and self.may_ask_again():
            self.begin()

    async def refresh(self) -> None:
        """Fetch the keys, or wait for the fetch that is under way. Never raises because of the other side."""
        # Shielded: many handshakes may wait for this one fetch, and one client going away must not end it for all.
        await asyncio.shield(self.begin())

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            await end_tasks([self._fetching])

    def begin(self) -> asyncio.Task[None]:
        """Fetch the keys in the background; the task of the fetch that is under way."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        # With its first fetch alone: most nodes have their keys in files, or check no tokens.
        import aiohttp

        try:
            keys = parse_jwks(await self._download(), self._algorithms)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._failed = True
            _log.warning("token keys could not be fetched", url=self._url, error=str(error) or type(error).__name__)
        else:
            self._failed = False
            self._keys = keys
            self._fetched_at = self._now()
            if not keys:
                _log.warning("the key set holds no key for auth.algorithms", url=self._url)
        finally:
            self._tried_at = self._now()
            self._fetching = None

    async def _download(self) -> bytes:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=JWKS_TIMEOUT_S)
        # A session a fetch: they are minutes apart. No redirects: one could lead from https to http.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
        ):
            if response.status != 200:
                raise ValueError(f"HTTP status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError(f"the key set is longer than {MAX_JWKS_BYTES} bytes")
            return bytes(body)
