"""Tokens (JWT, RFC 7519): whether one is genuine.

PyJWT and cryptography come with this module, so only nodes that read tokens import it.

Rules, after RFC 8725 (best current practices for JWT):

- The settings name the algorithms that count, never the token. `none` is not among them.
- A key is bound to one algorithm when it is loaded. A secret is never tried where a public key belongs, nor the other
  way round, so a token cannot make the server take a public key for a secret.
- A client gets one of a few fixed sentences; the details go to the log, the token goes nowhere.
- Header and claims are whatever their maker wrote. A header is looked at before its signature is; claims go on into
  logs and answers, so what cannot be encoded again is refused here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import jwt
import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from trunkline.errors import Refused, SettingsError
from trunkline.logs.logger import get_logger
from trunkline.server.connections.identity import Identity, TokenRefused
from trunkline.server.http.jwks import JWKS_RETRY_S, MIN_RSA_BITS, PublicKey, RemoteKeys, algorithm_of
from trunkline.settings.secret import mask_url
from trunkline.settings.sections import AuthSettings

MAX_TOKEN_BYTES = 8192
_MIN_SECRET_BYTES = 32

_log = get_logger("trunkline.tokens")


class _UnknownKey(Exception):
    """The token names a key that is not at hand."""


class Verifier:
    """Checks tokens against the keys of the settings, which name at least one algorithm.

    Keys that the verifier `before` this one has fetched from the same address are taken over.

    Raises SettingsError for a key file that cannot be read, or a key that fits no algorithm of the settings.
    """

    def __init__(
        self, auth: AuthSettings, *, before: Verifier | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._auth = auth
        self._algorithms = frozenset(auth.algorithms)
        self._secret = _load_secret(auth) if "HS256" in self._algorithms else None
        self._public: dict[str, PublicKey] = {}
        if auth.public_key_file is not None:
            algorithm, key = _load_public_key(auth.public_key_file, self._algorithms)
            self._public[algorithm] = key
        self._remote: RemoteKeys | None = None
        self._kept_remote = False
        if auth.jwks_url is not None:
            remote = before._remote if before is not None else None
            self._kept_remote = remote is not None and remote.is_for(auth.jwks_url, self._algorithms)
            self._remote = remote if self._kept_remote else RemoteKeys(auth.jwks_url, self._algorithms, now)

    async def start(self) -> None:
        """Fetch remote keys ahead of the first token; a failure is logged and tried again when a token comes."""
        if self._remote is not None:
            await self._remote.refresh()

    async def renew(self) -> None:
        """Fetch remote keys again, in the background where the address stays; the keys at hand hold meanwhile.

        Raises SettingsError for another address from which none can be had.
        """
        remote, url = self._remote, self._auth.jwks_url
        if remote is None or url is None:
            return
        if self._kept_remote:
            remote.begin()
            return
        await remote.refresh()
        if not remote.fetched:
            raise SettingsError("auth.jwks_url", value=mask_url(url), allowed="no key set can be fetched from it now")

    async def close(self) -> None:
        """Let go of the network."""
        if self._remote is not None:
            await self._remote.close()

    def verify_now(self, token: str) -> Identity | None:
        """Check a token with the keys at hand; None means that keys must be fetched first. Raises Refused (401)."""
        if self._remote is not None:
            # Here too, not with unknown keys alone: a key that its owner has withdrawn must not count for ever.
            self._remote.refresh_if_old()
        try:
            return self._verify(token)
        except _UnknownKey:
            # Before the first key set has come, any key id may be a known one.
            if self._remote is None or (self._remote.fetched and not self._remote.may_ask_again()):
                raise self._unknown_key() from None
            return None

    async def verify(self, token: str) -> Identity:
        """Check a token, fetching keys if that may help; raises Refused: 401, or 503 without any key yet."""
        identity = self.verify_now(token)
        if identity is not None:
            return identity
        remote = self._remote
        assert remote is not None  # noqa: S101 - else every key is at hand
        if remote.may_ask_again():
            await remote.refresh()
        if not remote.fetched:
            raise Refused(
                503, "tokens cannot be checked at the moment", retry_after_s=JWKS_RETRY_S, label="keys_unavailable"
            )
        try:
            return self._verify(token)
        except _UnknownKey:
            raise self._unknown_key() from None

    def _unknown_key(self) -> TokenRefused:
        """No key at hand is that of the token; it may be a new one, where keys come from an address."""
        if self._remote is None:
            return _refused("unknown key")
        return _refused("unknown key", passing=True, retry_after_s=self._remote.ask_again_in())

    def _verify(self, token: str) -> Identity:
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused("too long")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise _refused(type(error).__name__) from None
        algorithm = header.get("alg")
        # RFC 7515 section 4.1.11: an extension that must be understood and is not makes the token invalid.
        if not isinstance(algorithm, str) or algorithm not in self._algorithms or "crit" in header:
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
                options={
                    "verify_aud": auth.audience is not None,
                    "verify_iss": auth.issuer is not None,
                    "require": ["exp"] if auth.require_exp else [],
                },
            )
            expires_at = float(claims["exp"]) if "exp" in claims else None
            msgspec.json.encode(claims)
        except jwt.ExpiredSignatureError:
            raise _refused("expired", "the token has expired", passing=True) from None
        except jwt.ImmatureSignatureError:
            raise _refused("not valid yet", "the token is not valid yet", passing=True) from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # A UnicodeEncodeError is a ValueError: half a surrogate pair is no text.
            raise _refused(type(error).__name__) from None
        subject = claims.get("sub")
        return Identity(subject if isinstance(subject, str) else None, claims, expires_at, self._lasts_s(expires_at))

    def _lasts_s(self, expires_at: float | None) -> float | None:
        """How long a token that was accepted holds from now on, in seconds.

        One that was accepted only because clocks may differ holds until that time is over too.
        """
        if expires_at is None:
            return None
        left_s = expires_at - time.time()
        return left_s if left_s > 0 else max(left_s + self._auth.leeway_s, 0.0)

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


def _refused(
    detail: str,
    reason: str = "the token is not accepted",
    *,
    passing: bool = False,
    retry_after_s: float | None = None,
) -> TokenRefused:
    _log.debug("token refused", detail=detail)
    return TokenRefused(reason, passing=passing, retry_after_s=retry_after_s)


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
    algorithm = algorithm_of(key)
    if algorithm is None or algorithm not in algorithms or not isinstance(key, PublicKey):
        wanted = ", ".join(sorted(algorithms - {"HS256"}))
        raise SettingsError(
            "auth.public_key_file",
            value=str(path),
            allowed=f"its key fits none of auth.algorithms ({wanted}): RS256 takes RSA of {MIN_RSA_BITS} bits or "
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
