"""Whose address counts: forwarding headers are believed only from proxies the operator named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.net.addresses import FORWARDING_HEADERS, UNKNOWN, Origin, networks, origin_of, within

TRUSTED = networks(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("192.0.2.7", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        # The client made up what stands left of what the first trusted proxy saw.
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.99, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2, fd00::2", "203.0.113.9"),
        # All are proxies: the furthest is the client.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # IPv6, with and without brackets, and an IPv4 address in IPv6 clothes.
        ("10.0.0.1", "2001:db8::5", "2001:db8::5"),
        ("10.0.0.1", "[2001:db8::5]", "2001:db8::5"),
        ("10.0.0.1", "203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
        # With a port, as Azure's gateways write it, and hidden ports (RFC 7239 section 6).
        ("10.0.0.1", "203.0.113.9:51234", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1:1, 203.0.113.9:51234, 10.0.0.2:80", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::5]:443", "2001:db8::5"),
        ("10.0.0.1", "203.0.113.9:_hidden", "203.0.113.9"),
        ("10.0.0.1", "2001:db8::5%eth0", "2001:db8::5"),
        # Empty members of a list are none, and what stands left of the client is not looked at.
        ("10.0.0.1", "203.0.113.9, , 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "unknown, 203.0.113.9", "203.0.113.9"),
    ],
)
def test_chains_behind_a_trusted_proxy(peer: str, forwarded_for: str, address: str) -> None:
    """The first address from the right that is no proxy of ours is the client."""
    assert origin_of(peer, {"x-forwarded-for": forwarded_for}, TRUSTED) == Origin(address, proxied=True)
    if "," not in forwarded_for:
        node = f'"{forwarded_for}"'
        for header in (f"for={node}", f"For={node};proto=https;by=10.0.0.1", f"for=1.1.1.1, for={node} , "):
            assert origin_of(peer, {"forwarded": header}, TRUSTED) == Origin(address, proxied=True)
        assert origin_of(peer, {"x-real-ip": forwarded_for}, TRUSTED) == Origin(address, proxied=True)


UNREADABLE = [
    "", " , ", "unknown", "_hidden", "203.0.113.9, unknown", "unknown, 10.0.0.2", "999.1.1.1", "203.0.113.9/24",
    "8.8.8.8:", "[2001:db8::5", "2001:db8::5]:80", ":80", "8.8.8.8:80:80", "8.8.8.8:-1", "<script>", "localhost",
    "010.0.0.1", "1",
]  # fmt: skip


@pytest.mark.parametrize("value", UNREADABLE)
def test_a_proxy_that_hides_the_client(value: str) -> None:
    """What cannot be read is a client that is not known, and never the proxy."""
    hidden = Origin(UNKNOWN, untrusted=True, proxied=True)
    assert origin_of("10.0.0.1", {"x-forwarded-for": value}, TRUSTED) == hidden
    assert origin_of("10.0.0.1", {"x-real-ip": value}, TRUSTED) == hidden
    if "," not in value:
        assert origin_of("10.0.0.1", {"forwarded": f'for="{value}"'}, TRUSTED) == hidden


@pytest.mark.parametrize(
    "value",
    ["proto=https", "for", "for=", "for=8.8.8.8;for=127.0.0.1", 'for="8.8.8.8', "8.8.8.8", "for=1.1.1.1, by=10.0.0.1",
     "for=8.8.8.8 by=x", "for=8.8.8.8, for=127.0.0.1;;x"],
)  # fmt: skip
def test_forwarded_that_names_no_client(value: str) -> None:
    """Elements without an address, and what is not of the grammar, hide the client."""
    assert origin_of("10.0.0.1", {"forwarded": value}, TRUSTED) == Origin(UNKNOWN, untrusted=True, proxied=True)


@pytest.mark.parametrize("name", sorted(FORWARDING_HEADERS - {"x-forwarded-for", "forwarded", "x-real-ip"}))
def test_a_proxy_that_says_nothing_of_the_client(name: str) -> None:
    """A header that shows a proxy and no client hides the client."""
    origin = origin_of("10.0.0.1", {name: "1.1 front.example"}, TRUSTED)
    assert origin == Origin(UNKNOWN, untrusted=True, proxied=True)


def test_a_balancer_that_does_not_know_the_client() -> None:
    """It says so; the proxy before it is still who is limited."""
    headers = {"x-forwarded-for": "10.9.9.9", "x-trunkline-client": "unknown"}
    assert origin_of("10.0.0.1", headers, networks(["10.0.0.1"])) == Origin("10.9.9.9", untrusted=True, proxied=True)


def test_headers_that_disagree() -> None:
    """A proxy keeps one of the two chains and may pass the other from a client, so two clients are none."""
    for forwarded in ("for=127.0.0.1", "for=unknown", "nonsense"):
        origin = origin_of("10.0.0.1", {"x-forwarded-for": "203.0.113.9", "forwarded": forwarded}, TRUSTED)
        assert origin == Origin(UNKNOWN, untrusted=True, proxied=True)
    both = {"x-forwarded-for": "203.0.113.9:1", "forwarded": "for=203.0.113.9", "x-real-ip": "127.0.0.1"}
    assert origin_of("10.0.0.1", both, TRUSTED) == Origin("203.0.113.9", proxied=True)


def test_a_header_that_is_too_long() -> None:
    """Chains have few hops; what a client makes longer, to cost time, is not read to its end."""
    for padding in (",", ";", "for=1.1.1.1,", "by=1.1.1.1;"):
        for count, address in ((90, "203.0.113.9"), (100, UNKNOWN)):
            value = padding * count + "for=203.0.113.9"
            assert origin_of("10.0.0.1", {"forwarded": value}, TRUSTED).address == address


def test_a_long_header_costs_no_time() -> None:
    """Forwarded is read in linear time."""
    for value in ("for=1.1.1.1" + " " * 200_000 + "x", " " * 200_000 + "x", 'for="' + "\\a" * 100_000, ";" * 200_000):
        assert origin_of("10.0.0.1", {"forwarded": value}, TRUSTED).proxied


@pytest.mark.parametrize("peer", ["203.0.113.1", "::1", "11.0.0.1", "192.0.2.8", "::ffff:203.0.113.1", "", "garbage"])
@pytest.mark.parametrize("name", sorted(FORWARDING_HEADERS))
def test_forged_headers(peer: str, name: str) -> None:
    """Forwarding headers from anybody else change nothing, but the client is not known."""
    assert origin_of(peer, {name: "https"}, TRUSTED) == Origin(peer, untrusted=True)
    assert origin_of(peer, {name: "10.0.0.1"}, ()) == Origin(peer, untrusted=True)


def test_direct_requests() -> None:
    """Without forwarding headers the peer is the client, trusted or not."""
    for peer in ("10.0.0.1", "203.0.113.1"):
        assert origin_of(peer, {"host": "a"}, TRUSTED) == Origin(peer)


@pytest.mark.parametrize(
    ("proto", "secure"),
    [("https", True), ("wss", True), ("HTTPS", True), ("http", False), ("", False), ("https, http", False)],
)
def test_secure(proto: str, secure: bool) -> None:
    """A trusted proxy says whether the client came over TLS."""
    assert origin_of("10.0.0.1", {"x-forwarded-proto": proto}, TRUSTED).secure is secure
    assert not origin_of("203.0.113.1", {"x-forwarded-proto": proto}, TRUSTED).secure


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.255.0.1", True), ("11.0.0.1", False), ("::ffff:10.1.1.1", True), ("::10.1.1.1", False), ("fd12::1", True),
        ("fe80::1%eth0", False), ("fd00::1%eth0", True), ("", False), ("localhost", False), ("10.0.0.1:80", False),
    ],
)  # fmt: skip
def test_within(address: str, inside: bool) -> None:
    """Addresses of both families are found in their ranges; what is no address is in none."""
    assert within(address, TRUSTED) is inside
    assert not within(address, ())


def test_networks() -> None:
    """Host bits in a range are forgiven, nonsense is not."""
    assert str(networks(["10.1.2.3/8"])[0]) == "10.0.0.0/8"
    with pytest.raises(ValueError, match="nonsense"):
        networks(["nonsense"])


@given(st.text(max_size=60), st.sampled_from(["10.0.0.1", "203.0.113.1"]))
def test_any_header_is_survived(value: str, peer: str) -> None:
    """No text in a forwarding header raises, and an untrusted peer is always itself."""
    origin = origin_of(peer, {"x-forwarded-for": value}, TRUSTED)
    assert peer == "10.0.0.1" or origin.address == peer
