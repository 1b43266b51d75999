"""Tokens (JWT, RFC 7519): whether one is genuine.

PyJWT, cryptography and aiohttp come with this module, so only nodes that read tokens import it.

Rules, after RFC 8725 (best current practices for JWT):

- Which algorithms count is said by the settings, never by the token. `none` is not among them.
- A key is bound to one algorithm when it is loaded. A secret is never tried where a public key belongs, nor the other
  way round, so a token cannot make the server take a public key for a secret.
- What the client hears is one of a few fixed sentences; the details go to the log, the token goes nowhere.
- Keys from a JWKS address are kept. A failed fetch leaves the old ones in use; an unknown key id asks again, but not
  more often than every half minute, so made-up ids cannot turn this node into a flood on the address.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from trunkline.errors import Refused, SettingsError
from trunkline.server.http.identity import Identity
from trunkline.settings.sections import AuthSettings

MAX_TOKEN_BYTES = 8192
MAX_JWKS_BYTES = 256 * 1024
JWKS_TIMEOUT_S = 5.0
JWKS_MAX_AGE_S = 600.0
JWKS_UNKNOWN_KEY_S = 30.0
"""Least time between two fetches that unknown key ids cause."""
JWKS_RETRY_S = 5.0
"""Least time between two fetches when the last one failed."""
_MIN_SECRET_BYTES = 32
_MIN_RSA_BITS = 2048

PublicKey = RSAPublicKey | EllipticCurvePublicKey

_log = structlog.get_logger("trunkline.tokens")


class _UnknownKey(Exception):
    """The token names a key that is not at hand."""


class Verifier:
    """Checks tokens against the keys of the settings.

    Args:
        auth: the settings; at least one algorithm must be named.
        now: seconds of a steady clock, for the age of fetched keys.

    Raises:
        SettingsError: a key file that cannot be read, or a key that fits no algorithm of the settings.
    """

    def __init__(self, auth: AuthSettings, *, now: Callable[[], float] = time.monotonic) -> None:
        self._auth = auth
        self._algorithms = frozenset(auth.algorithms)
        self._secret = _load_secret(auth) if "HS256" in self._algorithms else None
        self._public: dict[str, PublicKey] = {}
        if auth.public_key_file is not None:
            algorithm, key = _load_public_key(auth.public_key_file, self._algorithms)
            self._public[algorithm] = key
        self._remote = _RemoteKeys(auth.jwks_url, self._algorithms, now) if auth.jwks_url is not None else None

    async def start(self) -> None:
        """Fetch remote keys ahead of the first token; a failure is logged and tried again when a token comes."""
        if self._remote is not None:
            await self._remote.refresh()

    async def close(self) -> None:
        """Let go of the network."""
        if self._remote is not None:
            await self._remote.close()

    def verify_now(self, token: str) -> Identity | None:
        """Check a token with the keys at hand; None means that keys must be fetched first (`await verify(token)`).

        Raises:
            Refused: with 401, the token is not accepted.
        """
        try:
            return self._verify(token)
        except _UnknownKey:
            # Before a key set was ever had nobody can tell whether the key is unknown.
            if self._remote is None or (self._remote.fetched and not self._remote.may_ask_again()):
                raise _refused("unknown key") from None
            return None

    async def verify(self, token: str) -> Identity:
        """Check a token, fetching keys if that may help.

        Raises:
            Refused: with 401, the token is not accepted; with 503, no key could be fetched yet.
        """
        remote = self._remote
        if remote is not None:
            remote.refresh_if_old()
        try:
            return self._verify(token)
        except _UnknownKey:
            if remote is None:
                raise _refused("unknown key") from None
        if remote.may_ask_again():
            await remote.refresh()
        if not remote.fetched:
            raise Refused(
                503, "tokens cannot be checked at the moment", retry_after_s=JWKS_RETRY_S, label="keys_unavailable"
            )
        try:
            return self._verify(token)
        except _UnknownKey:
            raise _refused("unknown key") from None

    def _verify(self, token: str) -> Identity:
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused("too long")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise _refused(type(error).__name__) from None
        algorithm = header.get("alg")
        # RFC 7515 section 4.1.11: an extension that must be understood and is not makes the token invalid.
        if algorithm not in self._algorithms or "crit" in header:
            raise _refused("algorithm or extension not accepted")
        auth = self._auth
        try:
            claims = jwt.decode(
                token,
                self._key(algorithm, header.get("kid")),
                algorithms=[algorithm],
                issuer=auth.issuer,
                audience=auth.audience,
                leeway=auth.leeway_s,
                options={"verify_aud": auth.audience is not None, "verify_iss": auth.issuer is not None},
            )
            expires_at = float(claims["exp"]) if "exp" in claims else None
        except jwt.ExpiredSignatureError:
            raise _refused("expired", "the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise _refused("not valid yet", "the token is not valid yet") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise _refused(type(error).__name__) from None
        subject = claims.get("sub")
        return Identity(subject if isinstance(subject, str) else None, claims, expires_at)

    def _key(self, algorithm: str, kid: object) -> str | PublicKey:
        if algorithm == "HS256":
            if self._secret is None:
                raise _UnknownKey
            return self._secret
        local = self._public.get(algorithm)
        if local is not None:
            return local
        remote = self._remote.find(algorithm, kid) if self._remote is not None else None
        if remote is None:
            raise _UnknownKey
        return remote


def _refused(detail: str, reason: str = "the token is not accepted") -> Refused:
    _log.debug("token refused", detail=detail)
    return Refused(401, reason, label="unauthorized")


# --- keys in files ----------------------------------------------------------------------------------------------------


def _load_secret(auth: AuthSettings) -> str:
    if auth.secret is not None:
        return auth.secret.reveal()
    if auth.secret_file is None:
        raise SettingsError("auth.algorithms", value="HS256", allowed="it needs auth.secret or auth.secret_file")
    secret = _read("auth.secret_file", auth.secret_file).rstrip("\r\n")
    if len(secret.encode()) < _MIN_SECRET_BYTES:
        raise SettingsError(
            "auth.secret_file", value=str(auth.secret_file), allowed=f"HS256 needs at least {_MIN_SECRET_BYTES} bytes"
        )
    return secret


def _load_public_key(path: Path, algorithms: frozenset[str]) -> tuple[str, PublicKey]:
    try:
        key = load_pem_public_key(_read("auth.public_key_file", path).encode())
    except ValueError:
        raise SettingsError(
            "auth.public_key_file", value=str(path), allowed="allowed: a PEM file that begins with BEGIN PUBLIC KEY"
        ) from None
    algorithm = _algorithm_of(key)
    if algorithm is None or algorithm not in algorithms or not isinstance(key, PublicKey):
        wanted = ", ".join(sorted(algorithms - {"HS256"}))
        raise SettingsError(
            "auth.public_key_file",
            value=str(path),
            allowed=f"its key fits none of auth.algorithms ({wanted}): RS256 takes RSA of {_MIN_RSA_BITS} bits or "
            "more, ES256 takes P-256",
        )
    return algorithm, key


def _read(setting: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(setting, value=str(path), allowed="the file is not text") from None
    except OSError as error:
        raise SettingsError(setting, value=str(path), allowed=f"the file cannot be read: {error.strerror}") from None


def _algorithm_of(key: object) -> str | None:
    if isinstance(key, RSAPublicKey):
        return "RS256" if key.key_size >= _MIN_RSA_BITS else None
    if isinstance(key, EllipticCurvePublicKey):
        return "ES256" if isinstance(key.curve, SECP256R1) else None
    return None


# --- keys from an address ---------------------------------------------------------------------------------------------


class _JwkSet(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse_jwks(document: bytes, algorithms: frozenset[str]) -> dict[tuple[str, str | None], PublicKey]:
    """The usable public keys of a JSON Web Key Set (RFC 7517), by algorithm and key id.

    Keys of other kinds, secrets among them, keys for encryption and keys that do not parse are left out.

    Raises:
        ValueError: the document is no key set.
    """
    found: dict[tuple[str, str | None], PublicKey] = {}
    for entry in msgspec.json.decode(document, type=_JwkSet).keys:
        if entry.get("kty") not in ("RSA", "EC") or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        algorithm = _algorithm_of(key)
        if algorithm is None or algorithm not in algorithms or entry.get("alg", algorithm) != algorithm:
            continue
        kid = entry.get("kid")
        if isinstance(key, PublicKey):
            found[algorithm, kid if isinstance(kid, str) else None] = key
    return found


class _RemoteKeys:
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
        if self._fetching is not None or self._tried_at is None:
            return True
        return self._now() - self._tried_at >= (JWKS_RETRY_S if self._failed else JWKS_UNKNOWN_KEY_S)

    def refresh_if_old(self) -> None:
        """Begin a fetch in the background when the keys are old; nobody waits for it."""
        if self._fetched_at is not None and self._now() - self._fetched_at > JWKS_MAX_AGE_S and self.may_ask_again():
            self._begin()

    async def refresh(self) -> None:
        """Fetch the keys, or wait for the fetch that is under way. Never raises because of the other side."""
        # Shielded: many handshakes may wait for this one fetch, and one client going away must not end it for all.
        await asyncio.shield(self._begin())

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching

    def _begin(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
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
