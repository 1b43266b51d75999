from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.patience import patient
from trunkline import App
from trunkline.errors import Refused, SettingsError
from trunkline.server.http import jwks
from trunkline.server.http.identity import find_token
from trunkline.server.http.jwks import parse_jwks
from trunkline.server.http.tokens import Verifier
from trunkline.server.node.node import Node
from trunkline.settings.sections import AuthSettings, Secret, Settings

KEY = "a-shared-secret-of-forty-bytes-or-so-----"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def pem(private: Any) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(private: Any, kid: str | None, **more: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return json.loads(kind.to_jwk(private.public_key())) | ({"kid": kid} if kid else {}) | more


def shared(**more: Any) -> Verifier:
    return Verifier(AuthSettings(algorithms=("HS256",), secret=Secret(KEY), **more))


def signed(claims: dict[str, Any] | None = None, key: Any = KEY, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode({"sub": "alice"} | (claims or {}), key, algorithm=algorithm, headers=headers)


async def refusal(verifier: Verifier, token: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await verifier.verify(token)
    assert token not in str(caught.value)
    return caught.value


# --- where a token is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "query", "subprotocols", "token"),
    [
        (None, None, [], None),
        ("Bearer a.b.c", None, [], "a.b.c"),
        ("bearer   a.b.c ", None, [], "a.b.c"),
        ("Basic dXNlcg==", None, [], None),
        ("Bearer", None, [], None),
        ("Bearer ", "q", [], "q"),
        (None, "q", [], "q"),
        (None, "", [], None),
        (None, None, ["trunkline", "bearer.a.b.c"], "a.b.c"),
        (None, None, ["bearer", "a.b.c", "trunkline"], "a.b.c"),
        (None, None, ["trunkline", "bearer"], None),
        (None, None, ["bearer."], None),
        ("Bearer h", "q", ["bearer.s"], "h"),
        ("Basic x", "q", ["bearer.s"], "s"),
    ],
)
def test_where_a_token_is(
    authorization: str | None, query: str | None, subprotocols: list[str], token: str | None
) -> None:
    """Header before subprotocol before query; other schemes and empty values are no token."""
    assert find_token(authorization, query, subprotocols) == token


# --- shared secret ----------------------------------------------------------------------------------------------------


async def test_a_genuine_token() -> None:
    """Subject, claims and expiry come out; without keys to fetch it is decided at once."""
    expires = int(time.time()) + 60
    identity = await shared().verify(signed({"exp": expires, "role": "admin"}))
    assert (identity.subject, identity.expires_at) == ("alice", float(expires))
    assert identity.claims["role"] == "admin"
    assert shared().verify_now(signed()) == ("alice", {"sub": "alice"}, None, None)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(time.time()) - 60}, "the token has expired"),
        ({"nbf": int(time.time()) + 86_400}, "the token is not valid yet"),  # drawn up when tests are collected
        ({"exp": "soon"}, "the token is not accepted"),
        ({"sub": 7}, "the token is not accepted"),
    ],
)
async def test_claims_that_do_not_hold(claims: dict[str, Any], reason: str) -> None:
    """Expired, early and malformed claims are refused with 401 and a fixed sentence."""
    error = await refusal(shared(), signed(claims))
    assert (error.status, error.reason, error.label) == (401, reason, "unauthorized")


async def test_leeway() -> None:
    """Within the leeway a token that has just expired is taken."""
    just_expired = signed({"exp": int(time.time()) - 3})
    assert (await shared(leeway_s=30.0).verify(just_expired)).subject == "alice"
    await refusal(shared(leeway_s=0.0), just_expired)


async def test_issuer_and_audience() -> None:
    """When they are set they must be there and fit; when they are not, anything goes."""
    strict = shared(issuer="https://id.example", audience="chat")
    good = {"iss": "https://id.example", "aud": ["other", "chat"]}
    assert (await strict.verify(signed(good))).subject == "alice"
    for wrong in ({}, good | {"iss": "https://evil.example"}, good | {"aud": "other"}, {"iss": good["iss"]}):
        await refusal(strict, signed(wrong))
    assert (await shared().verify(signed(good))).subject == "alice"


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))
    return ".".join([*parts, signature])


@pytest.mark.parametrize(
    "token",
    [
        unsigned({"alg": "none", "typ": "JWT"}, {"sub": "alice"}),
        unsigned({"alg": "None"}, {"sub": "alice"}),
        unsigned({"alg": "HS256"}, {"sub": "alice"}),
        unsigned({"typ": "JWT"}, {"sub": "alice"}, "x"),
        unsigned({"alg": ["HS256"]}, {"sub": "alice"}, "x"),
        signed(key="another-secret-that-is-long-enough-too"),
        signed(algorithm="HS512", key=KEY * 2),
        signed(crit=["exp"]),
        signed()[:-4] + "AAAA",
        "",
        "x",
        "a.b.c",
        "..",
        "ä.b.c",
        "\x00",
        "x" * 9000,
        signed() + ".x",
    ],
)
async def test_forged_and_broken_tokens(token: str) -> None:
    """`none`, another key, another algorithm, unknown critical extensions and garbage are all refused with 401."""
    with pytest.raises(Refused) as caught:
        await shared().verify(token)
    assert caught.value.status == 401
    assert caught.value.reason == "the token is not accepted"


# --- public keys in a file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("private", "algorithm"), [(RSA, "RS256"), (EC, "ES256")])
async def test_public_key_file(tmp_path: Path, private: Any, algorithm: Any) -> None:
    """A PEM file verifies tokens of its algorithm and no others."""
    file = tmp_path / "key.pem"
    file.write_text(pem(private))
    verifier = Verifier(AuthSettings(algorithms=(algorithm,), public_key_file=file))
    assert (await verifier.verify(signed(key=private, algorithm=algorithm))).subject == "alice"
    await refusal(verifier, signed(key=RSA_OTHER, algorithm="RS256"))
    await refusal(verifier, signed())


async def test_a_public_key_is_never_a_secret(tmp_path: Path) -> None:
    """The classic confusion: a token signed by HMAC with the text of the public key, with both algorithms allowed."""
    file = tmp_path / "key.pem"
    file.write_text(pem(RSA))
    verifier = Verifier(AuthSettings(algorithms=("HS256", "RS256"), secret=Secret(KEY), public_key_file=file))
    import hashlib
    import hmac

    body = unsigned({"alg": "HS256", "typ": "JWT"}, {"sub": "mallory"})[:-1]
    mac = hmac.new(pem(RSA).encode(), body.encode(), hashlib.sha256).digest()
    await refusal(verifier, f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")
    assert (await verifier.verify(signed())).subject == "alice"
    assert (await verifier.verify(signed(key=RSA, algorithm="RS256"))).subject == "alice"


def test_unusable_key_files(tmp_path: Path) -> None:
    """Missing, foreign, too weak and unfitting key files stop the start with the setting's name."""
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    wrong_curve = ec.generate_private_key(ec.SECP384R1())
    file = tmp_path / "key.pem"
    for text, algorithm in (
        ("no key", "RS256"),
        (pem(EC), "RS256"),
        (pem(RSA), "ES256"),
        (pem(small), "RS256"),
        (pem(wrong_curve), "ES256"),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError) as caught:
            Verifier(AuthSettings(algorithms=(algorithm,), public_key_file=file))  # type: ignore[arg-type]
        assert caught.value.key == "auth.public_key_file"
    with pytest.raises(SettingsError, match="cannot be read"):
        Verifier(AuthSettings(algorithms=("RS256",), public_key_file=tmp_path / "missing"))


async def test_secret_file(tmp_path: Path) -> None:
    """The line end of a secret file is not part of the key, and a short key is refused."""
    file = tmp_path / "secret"
    file.write_text(KEY + "\n")
    verifier = Verifier(AuthSettings(algorithms=("HS256",), secret_file=file))
    assert (await verifier.verify(signed())).subject == "alice"
    file.write_text("short\n")
    with pytest.raises(SettingsError, match="32 bytes"):
        Verifier(AuthSettings(algorithms=("HS256",), secret_file=file))


async def test_without_algorithms_there_is_no_verifier() -> None:
    """Settings without algorithms mean that tokens are not looked at."""
    assert Node(Settings(), App()).verifier is None


# --- keys from an address ---------------------------------------------------------------------------------------------


class KeyServer:
    """A JWKS address that can be made to fail, and counts how often it was asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.status = 200
        self.body: bytes | None = None
        self.hold: asyncio.Event | None = None
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        headers = {"Location": "/elsewhere"} if self.status == 302 else {}
        return web.Response(status=self.status, body=body, headers=headers)


@asynccontextmanager
async def serving(server: KeyServer) -> AsyncIterator[KeyServer]:
    app = web.Application()
    app.router.add_get("/keys", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    try:
        yield server
    finally:
        await runner.cleanup()


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def remote(server: KeyServer, clock: Time | None = None, *algorithms: Any) -> Verifier:
    auth = AuthSettings(algorithms=algorithms or ("RS256", "ES256"), jwks_url=server.url)
    return Verifier(auth, now=clock or Time())


async def test_keys_are_fetched_once() -> None:
    """The first token fetches the keys, many at a time fetch them once, later ones are decided at once."""
    async with serving(KeyServer(jwk(RSA, "one"), jwk(EC, "two"))) as server:
        verifier = remote(server)
        first = signed(key=RSA, algorithm="RS256", kid="one")
        assert verifier.verify_now(first) is None
        identities = await asyncio.gather(*(verifier.verify(first) for _ in range(20)))
        assert {identity.subject for identity in identities} == {"alice"}
        assert server.asked == 1
        assert verifier.verify_now(signed(key=EC, algorithm="ES256", kid="two")) is not None
        await refusal(verifier, signed(key=RSA_OTHER, algorithm="RS256", kid="one"))
        await verifier.close()


async def test_a_token_without_key_id() -> None:
    """It means the only key of its algorithm; with several it is refused."""
    async with serving(KeyServer(jwk(RSA, "one"))) as server:
        verifier = remote(server)
        assert (await verifier.verify(signed(key=RSA, algorithm="RS256"))).subject == "alice"
        server.keys.append(jwk(RSA_OTHER, "two"))
        verifier = remote(server)
        await refusal(verifier, signed(key=RSA, algorithm="RS256"))


async def test_rotation_and_made_up_key_ids() -> None:
    """An unknown key id asks again, but not more often than every half minute."""
    async with serving(KeyServer(jwk(RSA, "one"))) as server:
        clock = Time()
        verifier = remote(server, clock)
        await verifier.start()
        rotated = signed(key=RSA_OTHER, algorithm="RS256", kid="two")
        server.keys = [jwk(RSA_OTHER, "two")]
        await refusal(verifier, rotated)
        assert server.asked == 1
        clock.now += jwks.JWKS_UNKNOWN_KEY_S
        assert (await verifier.verify(rotated)).subject == "alice"
        assert server.asked == 2
        for number in range(50):
            await refusal(verifier, signed(key=RSA, algorithm="RS256", kid=f"made-up-{number}"))
        assert server.asked == 2


async def test_old_keys_stay_when_the_fetch_fails() -> None:
    """Old keys are refreshed behind the scenes; when that fails they go on being used."""
    async with serving(KeyServer(jwk(RSA, "one"))) as server:
        clock = Time()
        verifier = remote(server, clock)
        await verifier.start()
        server.status = 500
        clock.now += jwks.JWKS_MAX_AGE_S + 1
        token = signed(key=RSA, algorithm="RS256", kid="one")
        assert (await verifier.verify(token)).subject == "alice"
        assert verifier._remote is not None
        await verifier._remote.refresh()
        assert server.asked == 2
        assert (await verifier.verify(token)).subject == "alice"


async def test_a_key_that_was_withdrawn_stops_counting() -> None:
    """Although no token names a key that is not known: each check looks at the age of the keys."""
    async with serving(KeyServer(jwk(RSA, "one"))) as server:
        clock = Time()
        verifier = remote(server, clock)
        await verifier.start()
        server.keys = [jwk(RSA_OTHER, "two")]
        clock.now += jwks.JWKS_MAX_AGE_S + 1
        token = signed(key=RSA, algorithm="RS256", kid="one")
        assert verifier.verify_now(token) is not None
        async with asyncio.timeout(patient(5)):
            while server.asked < 2 or verifier._remote is None or verifier._remote._fetching is not None:
                await asyncio.sleep(0.01)
        with pytest.raises(Refused):
            verifier.verify_now(token)


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b""), (302, b""), (200, b"no json"), (200, b"[]"), (200, b'{"keys":[' + b" " * 300_000 + b"]}")],
)
async def test_keys_that_cannot_be_had(status: int, body: bytes) -> None:
    """Errors, redirects, garbage and endless answers: 503 with a time, as the client is not to blame."""
    async with serving(KeyServer()) as server:
        server.status, server.body = status, body
        clock = Time()
        verifier = remote(server, clock)
        token = signed(key=RSA, algorithm="RS256", kid="one")
        for _ in range(5):
            error = await refusal(verifier, token)
            assert (error.status, error.label) == (503, "keys_unavailable")
            assert error.retry_after_s
        assert server.asked == 1
        server.status, server.body, server.keys = 200, None, [jwk(RSA, "one")]
        clock.now += jwks.JWKS_RETRY_S
        assert (await verifier.verify(token)).subject == "alice"


async def test_a_client_that_leaves_does_not_end_the_fetch() -> None:
    """The fetch that many wait for goes on when one of them is cancelled."""
    async with serving(KeyServer(jwk(RSA, "one"))) as server:
        server.hold = asyncio.Event()
        verifier = remote(server)
        token = signed(key=RSA, algorithm="RS256", kid="one")
        leaving = asyncio.create_task(verifier.verify(token))
        staying = asyncio.create_task(verifier.verify(token))
        while not server.asked:
            await asyncio.sleep(0.001)
        leaving.cancel()
        server.hold.set()
        assert (await staying).subject == "alice"
        assert leaving.cancelled() or (await asyncio.gather(leaving, return_exceptions=True))
        assert server.asked == 1


def test_unusable_keys_of_a_set_are_left_out() -> None:
    """Secrets, keys for encryption, other algorithms and broken entries are passed over, the good one stays."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    document = {
        "keys": [
            {"kty": "oct", "k": base64.urlsafe_b64encode(KEY.encode()).decode(), "kid": "secret", "alg": "HS256"},
            jwk(RSA, "encryption", use="enc"),
            jwk(RSA, "other", alg="RS512"),
            jwk(weak, "weak"),
            {"kty": "RSA", "kid": "broken", "n": "?", "e": 3},
            {"kty": "EC"},
            {},
            jwk(RSA, "good", use="sig", alg="RS256"),
            jwk(EC, "not-allowed"),
        ]
    }
    assert list(parse_jwks(json.dumps(document).encode(), frozenset({"RS256", "HS256"}))) == [("RS256", "good")]
