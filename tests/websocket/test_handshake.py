"""The opening handshake: what is refused and how, which origins may connect, and the answer."""

from __future__ import annotations

import msgspec
import pytest

from trunkline.errors import Refused
from trunkline.http1.requests import Request
from trunkline.settings.sections import ServerSettings
from trunkline.websocket.handshake import accept_key, check, choose_subprotocol, origin_allowed, response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    "host": "server.example.com",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": KEY,
    "sec-websocket-version": "13",
}


def request(method: str = "GET", http_version: str = "1.1", **changes: str | None) -> Request:
    """A good upgrade request with some headers changed, or left out with None."""
    headers = dict(HEADERS)
    for name, value in changes.items():
        name = name.replace("_", "-")
        if value is None:
            del headers[name]
        else:
            headers[name] = value
    return Request(method, "/ws", "/ws", headers, http_version=http_version)


def test_accept_key_of_the_rfc() -> None:
    """RFC 6455 section 1.3 works out this key."""
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"connection": "keep-alive, Upgrade"},
        {"connection": "upgrade"},
        {"connection": "Upgrade,keep-alive"},
        {"upgrade": "WebSocket"},
    ],
)
def test_good_requests(changes: dict[str, str]) -> None:
    """Requests as browsers send them pass, and their key is returned."""
    assert check(request(**changes)) == KEY


@pytest.mark.parametrize(
    ("made", "status", "label"),
    [
        (request(upgrade=None), 426, "not_an_upgrade"),
        (request(upgrade="h2c"), 426, "not_an_upgrade"),
        (request(connection=None), 400, "bad_handshake"),
        (request(connection="keep-alive"), 400, "bad_handshake"),
        (request(connection="notupgrade"), 400, "bad_handshake"),
        (request(method="POST"), 400, "bad_handshake"),
        (request(method="HEAD"), 400, "bad_handshake"),
        (request(http_version="1.0"), 400, "bad_handshake"),
        (request(sec_websocket_version=None), 426, "bad_version"),
        (request(sec_websocket_version="8"), 426, "bad_version"),
        (request(sec_websocket_version="13, 8"), 426, "bad_version"),
        (request(host=None), 400, "bad_handshake"),
        (request(host=""), 400, "bad_handshake"),
        (request(sec_websocket_key=None), 400, "bad_handshake"),
        (request(sec_websocket_key=""), 400, "bad_handshake"),
        (request(sec_websocket_key="c2hvcnQ="), 400, "bad_handshake"),
        (request(sec_websocket_key=KEY + "AAAA"), 400, "bad_handshake"),
        (request(sec_websocket_key="!" + KEY[1:]), 400, "bad_handshake"),
        (request(sec_websocket_key=KEY[:-1]), 400, "bad_handshake"),
        (request(sec_websocket_key="é" + KEY), 400, "bad_handshake"),
    ],
)
def test_refusals(made: Request, status: int, label: str) -> None:
    """Each broken handshake is refused with its status and counted under its label."""
    with pytest.raises(Refused) as caught:
        check(made)
    assert (caught.value.status, caught.value.label) == (status, label)


EXACT = ["https://example.org"]
SUBDOMAINS = ["https://*.example.org"]
ANY_PORT = ["http://localhost:*"]
APPS = ["capacitor://localhost", "ionic://localhost", "chrome-extension://abcdefghijklmnop"]
PORTS = ["http://localhost:5173", "https://*.example.org:8443"]
ORIGINS = [
    # No list: only pages of the same host.
    ("https://example.org", [], True),
    ("http://EXAMPLE.org", [], True),
    ("https://example.org:8443", [], False),
    ("https://other.org", [], False),
    ("https://example.org.evil.com", [], False),
    ("null", [], False),
    ("", [], False),
    (None, [], True),
    # Everybody.
    ("https://anything.com", ["*"], True),
    ("null", ["*"], True),
    # Exact.
    ("https://example.org", EXACT, True),
    ("HTTPS://Example.ORG", EXACT, True),
    ("http://example.org", EXACT, False),
    ("https://example.org:444", EXACT, False),
    ("https://app.example.org", EXACT, False),
    ("https://example.org.evil.com", EXACT, False),
    ("https://evilexample.org", EXACT, False),
    ("https://evil.com/https://example.org", EXACT, False),
    ("https://evil.com#example.org", EXACT, False),
    ("https://evil.com?https://example.org", EXACT, False),
    ("https://example.org@evil.com", EXACT, False),
    ("null", EXACT, False),
    (None, EXACT, True),
    # Subdomains, and only those.
    ("https://app.example.org", SUBDOMAINS, True),
    ("https://a.b.example.org", SUBDOMAINS, True),
    ("https://APP.example.org", SUBDOMAINS, True),
    ("https://example.org", SUBDOMAINS, False),
    ("https://.example.org", SUBDOMAINS, False),
    ("https://evilexample.org", SUBDOMAINS, False),
    ("https://app.example.org.evil.com", SUBDOMAINS, False),
    ("http://app.example.org", SUBDOMAINS, False),
    ("https://app.example.org:8443", SUBDOMAINS, False),
    ("https://evil.com#.example.org", SUBDOMAINS, False),
    # Ports.
    ("http://localhost:5173", PORTS, True),
    ("http://localhost", PORTS, False),
    ("http://localhost:51730", PORTS, False),
    ("https://app.example.org:8443", PORTS, True),
    # The port of the scheme may be written out or left out.
    ("https://example.org:443", [], True),
    ("http://example.org:80", [], True),
    ("http://example.org:443", [], False),
    ("https://example.org:443", EXACT, True),
    ("https://app.example.org", ["https://*.example.org:443"], True),
    ("http://example.org:80", ["http://example.org"], True),
    ("http://example.org:443", ["http://example.org"], False),
    # Any port, addresses.
    ("http://localhost:51730", ANY_PORT, True),
    ("http://localhost", ANY_PORT, True),
    ("https://localhost:51730", ANY_PORT, False),
    ("http://localhost.evil.com:80", ANY_PORT, False),
    ("http://[::1]:3000", ["http://[::1]:3000"], True),
    ("http://[::1]:3000", ["http://[::1]:*"], True),
    ("http://[::1]", ["http://[::1]:3000"], False),
    # Apps have schemes of their own, and are never of the same host.
    ("capacitor://localhost", APPS, True),
    ("ionic://localhost", APPS, True),
    ("chrome-extension://abcdefghijklmnop", APPS, True),
    ("chrome-extension://other", APPS, False),
    ("capacitor://localhost:443", APPS, False),
    ("app://.", ["app://."], True),
    ("capacitor://example.org", [], False),
    # What is no origin of a web page.
    ("file://", EXACT, False),
    ("chrome-extension://example.org", EXACT, False),
    ("example.org", EXACT, False),
    ("https://[::1", EXACT, False),
    ("https://[x]", [], False),
    ("https://ex\u2100mple.org", EXACT, False),
]


@pytest.mark.parametrize(("origin", "allowed", "verdict"), ORIGINS)
def test_origins(origin: str | None, allowed: list[str], verdict: bool) -> None:
    """Pages may connect from the origins that are allowed, and from none that only looks like one."""
    assert origin_allowed(origin, "Example.org", allowed) is verdict


@pytest.mark.parametrize(
    ("origin", "host", "verdict"),
    [
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com", "example.com:80", True),
        ("https://example.com", "example.com:80", False),
        ("http://example.com", "example.com:443", False),
        ("https://example.com:8443", "example.com:443", False),
        ("https://example.com:8443", "example.com:8443", True),
        ("https://[2001:db8::1]", "[2001:db8::1]:443", True),
        ("http://[2001:db8::1]:3001", "[2001:DB8::1]:3001", True),
        ("http://[2001:db8::1]", "[2001:db8::1]:3001", False),
    ],
)
def test_the_same_host_with_and_without_its_port(origin: str, host: str, verdict: bool) -> None:
    """An origin is scheme, host and port; the port of the scheme need not be written (RFC 6454 section 5)."""
    assert origin_allowed(origin, host, []) is verdict


@pytest.mark.parametrize(
    "origin", [*APPS, "ionic://localhost", "http://localhost:*", "https://*.example.org:8443", "app://."]
)
def test_what_the_setting_takes_matches(origin: str) -> None:
    """Every kind of origin that `server.origins` accepts lets pages connect."""
    accepted = msgspec.convert({"origins": [origin]}, ServerSettings).origins
    assert origin_allowed(origin.replace("*.", "a.").replace(":*", ":1"), "h", accepted)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ("", None),
        ("chat", None),
        ("chat, trunkline", "trunkline"),
        ("v2, trunkline", "v2"),
        ("trunk", None),
    ],
)
def test_subprotocols(offered: str | None, chosen: str | None) -> None:
    """The client's order decides, among what we support."""
    assert choose_subprotocol(offered, ["trunkline", "v2"]) == chosen


def test_response() -> None:
    """The 101 holds what was agreed on, and nothing that was not."""
    plain = response(KEY).decode()
    assert plain.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert plain.endswith("\r\n\r\n")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in plain
    assert "Extensions" not in plain
    assert "Sec-WebSocket-Protocol" not in plain
    full = response(KEY, subprotocol="trunkline", extensions="permessage-deflate", request_id="abc").decode()
    assert "\r\nSec-WebSocket-Protocol: trunkline\r\n" in full
    assert "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" in full
    assert "\r\nX-Request-ID: abc\r\n" in full


@pytest.mark.parametrize("given", ["a\r\nSet-Cookie: x", "a\nb", "a\rb", "a\x00b", "a\x85b"])
def test_request_id_cannot_add_headers(given: str) -> None:
    """An X-Request-ID that would end its header is left out of the answer."""
    assert response(KEY, request_id=given) == response(KEY)
