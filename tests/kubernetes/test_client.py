"""Requests to an API server over HTTP and TLS, and what their failures say."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from tests.support.balancer.authority import Authority
from tests.support.kubernetes.api_server import ApiServer
from trunkline.kubernetes.access import Access, Pem
from trunkline.kubernetes.client import ApiClient
from trunkline.kubernetes.credentials import FileToken, FixedToken
from trunkline.kubernetes.failures import (
    ApiExpired,
    ApiFailed,
    ApiForbidden,
    ApiNotFound,
    ApiUnreachable,
    Request,
    failure_of,
)
from trunkline.kubernetes.objects import DEPLOYMENTS, ENDPOINT_SLICES, PODS, Listed, Meta
from trunkline.settings.secret import Secret


class Thing(msgspec.Struct, frozen=True):
    metadata: Meta


def access_to(url: str) -> Access:
    return Access(url, FixedToken(Secret("")))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (PODS.path("live"), "/api/v1/namespaces/live/pods"),
        (PODS.path("live", "a", "log"), "/api/v1/namespaces/live/pods/a/log"),
        (DEPLOYMENTS.path("live", "a"), "/apis/apps/v1/namespaces/live/deployments/a"),
        (ENDPOINT_SLICES.path("live"), "/apis/discovery.k8s.io/v1/namespaces/live/endpointslices"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


async def test_a_refused_token_is_replaced_within_the_request(tmp_path: Path) -> None:
    """The file was written between the reading and the answer: the request is made once more, and not a third time."""
    file = tmp_path / "token"
    file.write_text("old")

    class Rotating(FileToken):
        async def refused(self, token: Secret) -> bool:
            file.write_text(renewed)
            return await super().refused(token)

    async with ApiServer().serving() as server:
        server.tokens = {"new": "somebody"}
        async with ApiClient(Access(server.url, Rotating(file))) as client:
            renewed = "new"
            assert (await client.read(PODS, Listed[Thing], "live")).items is None
            assert server.asked["list pods"] == 2
            server.tokens, renewed = {"newest": "somebody"}, "wrong"
            with pytest.raises(ApiFailed, match=r"rejects the credentials \(list pods in namespace live\)") as failed:
                await client.read(PODS, Listed[Thing], "live")
            assert server.asked["list pods"] == 4
    assert failed.value.status == 401


async def test_a_client_certificate_and_another_name_of_the_server(tmp_path: Path) -> None:
    """As a kubeconfig of an administrator has them, in data; without the certificate there is no connection."""
    authority = Authority(tmp_path)
    authority.sign(tmp_path / "server.pem", "127.0.0.1")
    certificate, key = authority.sign(tmp_path / "client.pem", "admin")
    async with ApiServer().serving(authority.server(tmp_path / "server.pem", asks=True)) as server:
        plain = msgspec.structs.replace(access_to(server.url), ca=Pem(authority.file), server_name="127.0.0.1")
        shown = msgspec.structs.replace(plain, certificate=Pem(data=certificate), key=Pem(data=key))
        async with ApiClient(shown) as client:
            assert (await client.read(PODS, Listed[Thing], "live")).items is None
        for changed in ({"certificate": Pem()}, {"server_name": "elsewhere"}):
            async with ApiClient(msgspec.structs.replace(shown, **changed)) as client:
                with pytest.raises(ApiUnreachable, match="cannot list pods in namespace live at https://127"):
                    await client.read(PODS, Listed[Thing], "live")


async def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    access = msgspec.structs.replace(access_to("https://127.0.0.1:1"), ca=Pem(tmp_path / "ca.crt"))
    async with ApiClient(access) as client:
        with pytest.raises(ApiUnreachable, match=r"No such file or directory: '.*ca\.crt'"):
            await client.read(PODS, Listed[Thing], "live")


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\n", "hello"])
async def test_a_file_without_an_authority_trusts_nobody(tmp_path: Path, content: str) -> None:
    """Not the authorities of the system: whoever one of these knows would get the token."""
    (tmp_path / "ca.crt").write_text(content)
    access = msgspec.structs.replace(access_to("https://127.0.0.1:1"), ca=Pem(tmp_path / "ca.crt"))
    async with ApiClient(access) as client:
        with pytest.raises(ApiUnreachable, match=r"ca\.crt holds no certificates in PEM"):
            await client.read(PODS, Listed[Thing], "live")


def test_comments_beside_authorities_may_be_in_any_language(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem = Pem(data="# Autorité de l'équipe\n".encode() + authority.file.read_bytes())
    tls = msgspec.structs.replace(access_to("https://127.0.0.1:1"), ca=pem).tls()
    assert tls is not None
    assert len(tls.get_ca_certs()) == 1


async def test_a_key_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """One that is encrypted asks for no password at the terminal."""
    certificate, key = Authority(tmp_path).sign(tmp_path / "client.pem", "admin")
    hidden = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"s3cret")
    )
    for file, content in (("other.pem", Authority(tmp_path).sign(tmp_path / "x.pem", "x")[1]), ("hidden.pem", hidden)):
        (tmp_path / file).write_bytes(content)
        shown = {"certificate": Pem(data=certificate), "key": Pem(tmp_path / file)}
        async with ApiClient(msgspec.structs.replace(access_to("https://127.0.0.1:1"), **shown)) as client:
            with pytest.raises(
                ApiUnreachable, match=rf"the data in the kubeconfig and .*{file} are no certificate and"
            ):
                await client.read(PODS, Listed[Thing], "live")


async def test_a_client_certificate_that_was_renewed_is_read_again(tmp_path: Path) -> None:
    """Those of a kubeconfig live for hours in some clusters; the server refuses an old one."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    new.sign(tmp_path / "server.pem", "127.0.0.1")
    both = tmp_path / "client.pem"
    old.sign(both, "admin")
    async with ApiServer().serving(new.server(tmp_path / "server.pem", asks=True)) as server:
        shown = {"ca": Pem(new.file), "certificate": Pem(both), "key": Pem(both)}
        async with ApiClient(msgspec.structs.replace(access_to(server.url), **shown)) as client:
            with pytest.raises(ApiUnreachable, match="cannot list pods in namespace live"):
                await client.read(PODS, Listed[Thing], "live")
            new.sign(both, "admin")
            assert (await client.read(PODS, Listed[Thing], "live")).items is None
            # A server that asks for certificates and does not insist on them answers 401.
            context, server.tokens = client._tls, {"t0ken": "somebody"}
            with pytest.raises(ApiFailed, match="rejects the credentials"):
                await client.read(PODS, Listed[Thing], "live")
            server.tokens = {}
            assert (await client.read(PODS, Listed[Thing], "live")).items is None
            assert client._tls is not context


async def test_an_answer_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a failure the beginning is shown."""
    monkeypatch.setattr("trunkline.kubernetes.client.MOST_BYTES", 1000)
    monkeypatch.setattr("trunkline.kubernetes.client.MOST_FAILURE_BYTES", 1000)

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=500 if request.query else 200)
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b"x" * 500)
        return answer

    async with anything(endless) as url, ApiClient(access_to(url)) as client:
        with pytest.raises(ApiFailed, match="the answer to list pods in namespace live has more than 1,000 bytes"):
            await client.read(PODS, Listed[Thing], "live")
        with pytest.raises(ApiFailed, match=f"refused to list pods in namespace live: 500: {'x' * 300}$"):
            await client.read(PODS, Listed[Thing], "live", query={"limit": "1"})


@contextlib.asynccontextmanager
async def anything(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The address of a server that answers everything so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_what_is_no_api_server_is_named() -> None:
    """A page of something else, and a redirect, which would carry the token to somewhere else."""
    answers = [web.Response(text="<html>hello"), web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})]

    async def answer(request: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    async with anything(answer) as url, ApiClient(access_to(url)) as client:
        with pytest.raises(ApiFailed, match="what answers is no API server of Kubernetes"):
            await client.read(PODS, Listed[Thing], "live")
        with pytest.raises(ApiFailed, match="refused to list pods in namespace live: 302"):
            await client.read(PODS, Listed[Thing], "live")


async def test_an_object_that_is_not_there_is_told_apart() -> None:
    async with ApiServer().serving() as server, ApiClient(access_to(server.url)) as client:
        with pytest.raises(ApiNotFound, match=r"get deployments\.apps/a in namespace live: 404 NotFound"):
            await client.read(DEPLOYMENTS, Thing, "live", "a")


REQUEST = Request("watch", ENDPOINT_SLICES, "live")


@pytest.mark.parametrize(
    ("code", "body", "header", "kind", "wait_s"),
    [
        (410, b'{"code":410,"reason":"Expired"}', "", ApiExpired, 0.0),
        (403, b'{"message":"x is forbidden: User \\"me\\" cannot watch resource"}', "", ApiForbidden, 0.0),
        (403, b'{"message":"pods is forbidden: exceeded quota"}', "", ApiFailed, 0.0),
        (429, b"{}", "7", ApiFailed, 7.0),
        (504, b'{"details":{"retryAfterSeconds":2},"reason":"Timeout"}', "1", ApiFailed, 2.0),
        (429, b"{}", "86400", ApiFailed, 60.0),
        (429, b"{}", "9" * 400, ApiFailed, 0.0),
        (429, b'{"details":{"retryAfterSeconds":' + b"9" * 400 + b"}}", "", ApiFailed, 60.0),
        (429, b'{"details":{"retryAfterSeconds":-5}}', "", ApiFailed, 0.0),
        (429, b"{}", "Wed, 21 Oct 2015 07:28:00 GMT", ApiFailed, 0.0),
        (502, b"<html>Bad Gateway</html>", "", ApiFailed, 0.0),
        (500, b"\xff\xfe", "", ApiFailed, 0.0),
    ],
)
def test_failures(code: int, body: bytes, header: str, kind: type[ApiFailed], wait_s: float) -> None:
    found = failure_of(REQUEST, code, body, header)
    assert (type(found), found.status, found.retry_after_s) == (kind, code, wait_s)
