"""What may be a secret is in no message about bad input, and goes to the server as it should."""

from __future__ import annotations

import asyncio

import pytest

from trunkline.cli.load import _header, _subprotocol
from trunkline.errors import SettingsError
from trunkline.load.client.dial import Dialer, DialError, split_url
from trunkline.load.client.link import WebSocket
from trunkline.load.model.plan import Target


@pytest.mark.parametrize(
    "url", ["http://me:verysecret@host/", "ws://me:verysecret@host:99999/", "ws://host:99999/?token=verysecret"]
)
def test_a_wrong_url_keeps_its_secrets(url: str) -> None:
    """A URL that cannot be used is not repeated where a password or a token may be in it."""
    with pytest.raises(SettingsError) as caught:
        split_url(url)
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("text", ["Authorization Bearer verysecret", "Authorization=verysecret: x"])
def test_a_wrong_header_keeps_its_secrets(text: str) -> None:
    """Nor is a header whose colon is missing or misplaced."""
    with pytest.raises(SettingsError) as caught:
        _header(text)
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", "a\r\nX: y"])
def test_a_subprotocol_is_one_word(name: str) -> None:
    """What would break the request is refused."""
    with pytest.raises(SettingsError, match="--subprotocol"):
        _subprotocol(name)


async def test_user_and_password_are_a_login() -> None:
    """Those in the URL become an Authorization header and are no part of Host."""
    heads: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    def make() -> WebSocket:
        raise AssertionError("no connection is opened")

    async with await asyncio.start_server(refuse, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        dialer = await Dialer.prepare(Target(f"ws://me:p%40ss@127.0.0.1:{port}/ws"))
        with pytest.raises(DialError):
            await dialer.open(make, lambda _: None)
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in heads[0]
    assert b"Authorization: Basic bWU6cEBzcw==\r\n" in heads[0]
