"""Under which names a port is served: on loopback, and where a page is open to a network."""

from __future__ import annotations

import pytest

from trunkline.net.hosts import Hosts

NAMED = ("Site.example", "*.parts.example", "10.0.0.1", "[2001:db8::1]")
OWN = [
    "localhost", "localhost:1", "LOCALHOST.", "app.localhost", "127.0.0.1:80", "127.1.2.3", "[::1]",
    "[::ffff:127.0.0.1]:1", "site.example:3001", "a.b.parts.example", "10.0.0.1:1", "[2001:DB8::1]:1",
]  # fmt: skip
PRIVATE = [
    "node-1:3001", "node_1", "10.0.0.9", "[fd00::9]", "8.8.8.8", "a.svc.cluster.local", "host.docker.internal:1",
    "x.home.arpa", "box.corp.example",
]  # fmt: skip
ANYBODY = [
    "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1.nip.io", "parts.example",
    "evilparts.example", "notlocalhost.example", "a.site.example", "internal.example", "evil.example.:3001",
]  # fmt: skip


def hosts(*addresses: str) -> Hosts:
    """The names of a port on these addresses, on a machine with a name."""
    made = Hosts("server.hosts", "server.trusted_proxies", NAMED, "box.corp.example")
    made.listens_on(addresses)
    return made


@pytest.mark.parametrize("host", [*OWN, *PRIVATE, *ANYBODY])
def test_a_port_on_loopback(host: str) -> None:
    """It serves what leads to loopback by itself, the operator's names, and whatever a trusted proxy forwards."""
    for here in (hosts("127.0.0.1"), hosts("127.0.0.1", "::1")):
        assert bool(here.refusal(host, False)) is (host not in OWN)
        assert here.refusal(host, True) == ""


@pytest.mark.parametrize("host", [*OWN, *PRIVATE, *ANYBODY])
def test_a_port_on_other_addresses(host: str) -> None:
    """It serves every name, also where one of its addresses is loopback."""
    for here in (hosts("0.0.0.0"), hosts("::"), hosts("127.0.0.1", "10.0.0.1")):
        assert here.refusal(host, False) == ""


@pytest.mark.parametrize("host", [*OWN, *PRIVATE, *ANYBODY])
def test_what_a_network_opens(host: str) -> None:
    """Addresses, names of the operator and names that nobody can register open it, on any port."""
    for here in (hosts("127.0.0.1"), hosts("0.0.0.0")):
        assert bool(here.network_refusal(host)) is (host in ANYBODY)


def test_the_host_served_last_is_remembered_for_this_check_alone() -> None:
    """Every other Host is checked as before, and one that was refused stays refused."""
    here = hosts("127.0.0.1")
    for host in ("localhost:1", "localhost:1", "evil.example", "localhost:1", "evil.example", "10.0.0.1"):
        assert bool(here.refusal(host, False)) is (host == "evil.example")
    assert here.refusal("evil.example", True) == ""
    assert here.refusal("evil.example", False) != ""


def test_no_browser_sends_no_host() -> None:
    """HTTP/1.0 without Host is served."""
    assert hosts("127.0.0.1").refusal(None, False) == hosts("127.0.0.1").network_refusal(None) == ""


def test_any_name() -> None:
    """`*` switches the check off."""
    anything = Hosts("server.hosts", "server.trusted_proxies", ("*",))
    anything.listens_on(["127.0.0.1"])
    assert anything.refusal("evil.example", False) == anything.network_refusal("evil.example") == ""


def test_the_first_refusal_is_logged() -> None:
    """One line says what to set; a page that goes on trying fills no log."""
    here = hosts("127.0.0.1")
    assert [here.is_first() for _ in range(3)] == [True, False, False]


def test_refusals_say_what_to_set() -> None:
    """They name the host as it came, and the setting."""
    here = hosts("127.0.0.1")
    refusal = here.refusal("Evil.example:80", False)
    assert all(word in refusal for word in ("Evil.example:80", "server.hosts", "127.0.0.1", "server.trusted_proxies"))
    refusal = here.network_refusal("Evil.example:80")
    assert all(word in refusal for word in ("Evil.example:80", "server.hosts", "admin token"))
