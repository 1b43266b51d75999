"""Requests to an API server over HTTP and TLS, and what their failures say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from aiohttp import web

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


async def test_what_is_no_api_server_is_named() -> None:
    """A page of something else, and a redirect, which would carry the token to somewhere else."""
    answers = [web.Response(text="<html>hello"), web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})]

    async def answer(request: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ApiClient(access_to(f"http://127.0.0.1:{runner.addresses[0][1]}")) as client:
            with pytest.raises(ApiFailed, match="what answers is no API server of Kubernetes"):
                await client.read(PODS, Listed[Thing], "live")
            with pytest.raises(ApiFailed, match="refused to list pods in namespace live: 302"):
                await client.read(PODS, Listed[Thing], "live")
    finally:
        await runner.cleanup()


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
        (429, b"{}", "Wed, 21 Oct 2015 07:28:00 GMT", ApiFailed, 0.0),
        (502, b"<html>Bad Gateway</html>", "", ApiFailed, 0.0),
        (500, b"\xff\xfe", "", ApiFailed, 0.0),
    ],
)
def test_failures(code: int, body: bytes, header: str, kind: type[ApiFailed], wait_s: float) -> None:
    found = failure_of(REQUEST, code, body, header)
    assert (type(found), found.status, found.retry_after_s) == (kind, code, wait_s)
