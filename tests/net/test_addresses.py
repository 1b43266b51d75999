"""Whose address counts: forwarding headers are believed only from proxies the operator named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.net.addresses import Origin, networks, origin_of, within

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
        # Garbage ends the chain at the last that was believed.
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "999.1.1.1", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9/24", "10.0.0.1"),
        ("10.0.0.1", "<script>", "10.0.0.1"),
    ],
)
def test_chains_behind_a_trusted_proxy(peer: str, forwarded_for: str, address: str) -> None:
    """The first address from the right that is no proxy of ours is the client."""
    assert origin_of(peer, {"x-forwarded-for": forwarded_for}, TRUSTED) == Origin(address, False, False)


@pytest.mark.parametrize("peer", ["203.0.113.1", "::1", "11.0.0.1", "192.0.2.8", "::ffff:203.0.113.1", "", "garbage"])
@pytest.mark.parametrize("name", ["x-forwarded-for", "x-real-ip", "forwarded", "x-forwarded-host", "x-forwarded-proto"])
def test_forged_headers(peer: str, name: str) -> None:
    """Forwarding headers from anybody else change nothing, but mark the request as a stranger's."""
    assert origin_of(peer, {name: "https"}, TRUSTED) == Origin(peer, False, True)
    assert origin_of(peer, {name: "10.0.0.1"}, ()) == Origin(peer, False, True)


def test_direct_requests() -> None:
    """Without forwarding headers the peer is the client, trusted or not."""
    for peer in ("10.0.0.1", "203.0.113.1"):
        assert origin_of(peer, {"host": "a"}, TRUSTED) == Origin(peer, False, False)


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
