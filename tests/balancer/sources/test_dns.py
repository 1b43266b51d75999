"""Backends by DNS, asked of a real name server on loopback."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.support.balancer.name_server import NameServer, name_server
from tests.support.balancer.told_lists import running
from tests.support.patience import patient
from trunkline.balancer.sources.dns import DnsName, DnsSource, parse_name
from trunkline.errors import SettingsError
from trunkline.placement.backend import BackendSpec

NAME, SERVICE = "ws.example.test", "_ws._tcp.example.test"
Logged = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as running_server:
        yield running_server


def unwell(url: str) -> bool:
    """No backend's checks are good, so that what an answer lacks goes at once."""
    return False


def source(
    server: NameServer,
    *names: str,
    interval_ms: int = 20,
    floor_s: float = 0.02,
    is_well: Callable[[str], bool] = unwell,
) -> DnsSource:
    """A source that asks `server` every 20 ms, so that a test need not wait for its changes."""
    return DnsSource(
        names, interval_ms, is_well, nameservers=["127.0.0.1"], port=server.port, floor_s=floor_s, lookup_s=0.3
    )  # fmt: skip


async def test_addresses_of_both_kinds(server: NameServer) -> None:
    """Every A and AAAA record is a backend, in a fixed order, and a change is told."""
    server.records[NAME, "A"] = ["10.0.0.2", "10.0.0.1"]
    server.records[NAME, "AAAA"] = ["fd00::1"]
    async with running(source(server, f"http://{NAME}:3001")) as lists:
        specs = await lists.until_urls("http://10.0.0.1:3001", "http://10.0.0.2:3001", "http://[fd00::1]:3001")
        assert specs[0] == BackendSpec("http://10.0.0.1:3001", source="dns")
        server.records[NAME, "A"] = ["10.0.0.1", "10.0.0.2"]
        await server.asked_again(NAME, "AAAA", 3)
        assert len(lists.all) == 1
        server.records[NAME, "A"] = ["10.0.0.3"]
        await lists.until_urls("http://10.0.0.3:3001", "http://[fd00::1]:3001")


async def test_tls_verifies_the_name(server: NameServer) -> None:
    """The URL has the address, the certificate must have the name; for SRV the domain behind the service."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    server.records[SERVICE, "SRV"] = ["0 1 8443 node.elsewhere.test."]
    server.records["node.elsewhere.test", "A"] = ["10.0.0.2"]
    async with running(source(server, f"wss://{NAME}", f"srv+https://{SERVICE}")) as lists:
        specs = await lists.until_urls("https://10.0.0.1:443", "https://10.0.0.2:8443")
    assert [spec.server_name for spec in specs] == [NAME, "example.test"]


async def test_services(server: NameServer) -> None:
    """SRV records give port and weight; higher priority numbers are backups; a target is one server."""
    server.records[SERVICE, "SRV"] = [
        "10 30 3001 a.example.test.",
        "10 10 3002 b.example.test.",
        "20 99 3003 spare.example.test.",
    ]
    for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("spare", "10.0.0.9")):
        server.records[f"{name}.example.test", "A"] = [address]
    server.records["a.example.test", "AAAA"] = ["fd00::1"]
    async with running(source(server, f"srv+http://{SERVICE}")) as lists:
        specs = await lists.until_urls("http://10.0.0.1:3001", "http://10.0.0.2:3002", "http://10.0.0.9:3003")
        assert [(spec.weight, spec.name, spec.tier) for spec in specs] == [
            (1.5, "a.example.test", 0),
            (0.5, "b.example.test", 0),
            (1.0, "spare.example.test", 1),
        ]
        server.records[SERVICE, "SRV"] = ["20 99 3003 spare.example.test."]
        specs = await lists.until_urls("http://10.0.0.9:3003")
        assert (specs[0].weight, specs[0].tier) == (1.0, 0)
        server.records[SERVICE, "SRV"] = ["0 0 0 ."]
        await lists.until_urls()


async def test_a_target_that_cannot_be_resolved(server: NameServer, logged: Logged) -> None:
    """The other targets serve on, and it keeps the address it had."""
    server.records[SERVICE, "SRV"] = ["0 1 1 a.example.test.", "0 1 1 b.example.test."]
    server.records["a.example.test", "A"] = ["10.0.0.1"]
    server.trouble["b.example.test"] = "SERVFAIL"
    async with running(source(server, f"srv+http://{SERVICE}")) as lists:
        await lists.until_urls("http://10.0.0.1:1")
        assert (await logged("dns_target_failing"))["target"] == "b.example.test"
        server.records["b.example.test", "A"] = ["10.0.0.2"]
        server.trouble.clear()
        await lists.until_urls("http://10.0.0.1:1", "http://10.0.0.2:1")
        server.trouble["b.example.test"] = "SERVFAIL"
        await server.asked_again("b.example.test", "A", 3)
        assert lists.urls == ["http://10.0.0.1:1", "http://10.0.0.2:1"]


@pytest.mark.parametrize("trouble", ["SERVFAIL", "NXDOMAIN", "SILENT", "empty"])
async def test_failing_dns_keeps_the_list(server: NameServer, logged: Logged, lines: list[Any], trouble: Any) -> None:
    """Whatever goes wrong after a good answer, the list stays, one line is logged, and it recovers by itself."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    async with running(source(server, f"http://{NAME}:1")) as lists:
        await lists.until_urls("http://10.0.0.1:1")
        if trouble == "empty":
            server.records = {(NAME, "TXT"): ["x"]}
        else:
            server.trouble[NAME] = trouble
        line = await logged("dns_failing")
        assert (line["name"], line["keeps_backends"]) == (f"http://{NAME}:1", 1)
        await server.asked_again(NAME, "A", 3)
        assert [line["event"] for line in lines].count("dns_failing") == 1
        assert len(lists.all) == 1
        server.trouble.clear()
        server.records = {(NAME, "A"): ["10.0.0.2"]}
        await lists.until_urls("http://10.0.0.2:1")
        await logged("dns_recovered")


@pytest.mark.parametrize("trouble", ["SERVFAIL", "SILENT"])
async def test_one_kind_of_record_that_fails(server: NameServer, lines: list[Any], trouble: Any) -> None:
    """A name server that cannot answer AAAA does not keep changes of A back; the IPv6 addresses stay."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    server.records[NAME, "AAAA"] = ["fd00::1"]
    async with running(source(server, f"http://{NAME}:1")) as lists:
        await lists.until_urls("http://10.0.0.1:1", "http://[fd00::1]:1")
        server.trouble[f"{NAME}/AAAA"] = trouble
        server.records[NAME, "A"] = ["10.0.0.2"]
        await lists.until_urls("http://10.0.0.2:1", "http://[fd00::1]:1")
    assert "dns_failing" not in [line["event"] for line in lines]


async def test_names_outside_dns(server: NameServer, lines: list[Any]) -> None:
    """Addresses are taken as they are, and localhost and the hosts file are asked of the system."""
    async with running(source(server, "http://10.0.0.1:1", "https://[fd00::1]", "http://localhost:2")) as lists:
        specs = await lists.until(lambda specs: len(specs) >= 3)
    assert specs[0] == BackendSpec("http://10.0.0.1:1", source="dns")
    assert specs[1].url == "https://[fd00::1]:443"
    assert "http://127.0.0.1:2" in [spec.url for spec in specs[2:]]
    assert not server.asked
    assert lines == []


async def test_a_name_that_nobody_knows(server: NameServer, logged: Logged) -> None:
    """The first list is told all the same, empty, and the name is taken when it comes to be."""
    server.trouble[SERVICE] = "NXDOMAIN"
    async with running(source(server, f"srv+http://{SERVICE}")) as lists:
        await lists.until_urls()
        assert (await logged("dns_failing"))["why"] == "there is no such name (NXDOMAIN)"
        server.trouble.clear()
        server.records[SERVICE, "SRV"] = ["0 1 1 a.example.test."]
        server.records["a.example.test", "A"] = ["10.0.0.1"]
        await lists.until_urls("http://10.0.0.1:1")


async def test_a_name_is_asked_again_by_ttl_interval_and_floor(server: NameServer) -> None:
    """A long TTL waits for the interval, a short one comes first, and a TTL of 0 waits for the floor."""
    server.records[NAME, "A"] = ["10.0.0.1"]

    async def pause(ttl: int, interval_ms: int, floor_s: float) -> float:
        server.ttl = ttl
        async with running(source(server, f"http://{NAME}:1", interval_ms=interval_ms, floor_s=floor_s)) as lists:
            await lists.until_urls("http://10.0.0.1:1")
            began = time.monotonic()
            await server.asked_again(NAME, "A")
            return time.monotonic() - began

    assert 0.15 < await pause(3600, 200, 0.01) < patient(0.8)
    assert 0.9 < await pause(1, 60_000, 0.01) < patient(1.9)
    assert 0.25 < await pause(0, 60_000, 0.3) < patient(0.9)


async def test_one_slow_name_does_not_hold_up_another(server: NameServer) -> None:
    """After the first list each name goes its own pace."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    server.trouble[SERVICE] = "SILENT"
    async with running(source(server, f"srv+http://{SERVICE}", f"http://{NAME}:1")) as lists:
        await lists.until_urls("http://10.0.0.1:1")
        server.records[NAME, "A"] = ["10.0.0.2"]
        began = time.monotonic()
        await lists.until_urls("http://10.0.0.2:1")
        assert time.monotonic() - began < patient(0.25)


async def test_no_name_server_at_all(logged: Logged) -> None:
    """With nobody on the port the list is told empty, and stopping is immediate."""
    async with name_server() as gone:
        port = gone.port
    dead = DnsSource([f"srv+http://{SERVICE}"], 50, unwell, nameservers=["127.0.0.1"], port=port, lookup_s=0.2)
    async with running(dead) as lists:
        await lists.until_urls()
        await logged("dns_failing")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("http://WS.Example:3001", DnsName("ws.example", 3001, False)),
        ("wss://ws.example./", DnsName("ws.example", 443, True)),
        ("srv+https://_ws._tcp.ws.example", DnsName("_ws._tcp.ws.example", None, True)),
    ],
)
def test_entries(text: str, name: DnsName) -> None:
    """Both kinds of entries are understood, in any case and with a final dot."""
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "ws.example:1",
        "srv+http://_ws._tcp.x:80",
        "srv+http://10.0.0.1",
        "http://x/path",
        "ftp://x",
        "http://",
        "http://x:0",
    ],
)
def test_wrong_entries_are_named(text: str) -> None:
    """An entry that is neither kind stops the start."""
    with pytest.raises(SettingsError, match=r"balancer\.dns"):
        DnsSource([text], 1000, unwell)


async def test_a_name_that_no_one_can_look_up_ends_nothing(server: NameServer) -> None:
    """A name that DNS and the system cannot even be asked for fails alone; the others are followed on."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    async with running(source(server, f"http://{'x' * 70}.test:1", f"http://{NAME}:3001")) as lists:
        await lists.until_urls("http://10.0.0.1:3001")
        server.records[NAME, "A"] = ["10.0.0.2"]
        await lists.until_urls("http://10.0.0.2:3001")


async def test_a_sinkholes_answer_replaces_nothing(server: NameServer, logged: Logged) -> None:
    """An unspecified address is no backend: the last list stays, as for any other failure."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    async with running(source(server, f"http://{NAME}:1")) as lists:
        await lists.until_urls("http://10.0.0.1:1")
        server.records[NAME, "A"] = ["0.0.0.0"]
        server.records[NAME, "AAAA"] = ["::"]
        assert "of no use" in (await logged("dns_failing"))["why"]
        await server.asked_again(NAME, "A", 3)
        assert len(lists.all) == 1


async def test_port_zero_is_no_place(server: NameServer, logged: Logged) -> None:
    """A record with it is left out and named; with no other one the last list stays."""
    server.records[SERVICE, "SRV"] = ["0 1 0 a.example.test.", "0 1 3001 a.example.test."]
    server.records["a.example.test", "A"] = ["10.0.0.1"]
    async with running(source(server, f"srv+http://{SERVICE}")) as lists:
        await lists.until_urls("http://10.0.0.1:3001")
        assert (await logged("dns_port_zero"))["records"] == 1
        server.records[SERVICE, "SRV"] = ["0 1 0 a.example.test."]
        await logged("dns_failing")
        assert len(lists.all) == 1


async def test_a_part_of_the_addresses_is_no_change(server: NameServer) -> None:
    """Answers turn through three of six: once all were seen all stay, until one's checks are bad."""
    down: set[str] = set()
    names = [f"10.0.0.{number}" for number in range(1, 7)]
    server.records[NAME, "A"] = names[:3]
    every = [f"http://{name}:1" for name in names]
    async with running(source(server, f"http://{NAME}:1", is_well=lambda url: url not in down)) as lists:
        await lists.until_urls(*every[:3])
        for round_ in range(4):
            for start in range(0, 6, 2):
                server.records[NAME, "A"] = [names[(start + step) % 6] for step in range(3)]
                await server.asked_again(NAME, "A", 2)
            if round_ == 1:
                await lists.until_urls(*every)
        assert lists.urls == every
        server.records[NAME, "A"] = names[:3]
        down.add(every[4])
        await lists.until_urls(*every[:4], every[5])


async def test_a_changed_srv_record_counts_at_once(server: NameServer) -> None:
    """One that drains by its weight, or becomes a backup or no backup: its old record is not one that is missing."""
    server.records[SERVICE, "SRV"] = ["10 50 3001 a.example.test.", "10 50 3001 b.example.test."]
    for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2")):
        server.records[f"{name}.example.test", "A"] = [address]
    found = source(server, f"srv+http://{SERVICE}", interval_ms=200, is_well=lambda _: True)
    async with running(found) as lists:
        await lists.until(lambda specs: [spec.weight for spec in specs] == [1.0, 1.0])
        server.records[SERVICE, "SRV"] = ["20 50 3001 a.example.test.", "10 0 3001 b.example.test."]
        await lists.until(lambda specs: {spec.name: spec.tier for spec in specs} == CHANGED)
        server.records[SERVICE, "SRV"] = ["10 50 3001 a.example.test.", "10 0 3001 b.example.test."]
        await lists.until(lambda specs: {spec.tier for spec in specs} == {0})
    # One list for each change, with no step between.
    assert [[spec.weight for spec in specs] for specs in lists.all] == [[1.0, 1.0], [1.0, 1.0], [1.996, 0.004]]


CHANGED = {"a.example.test": 1, "b.example.test": 0}


async def test_a_sinkhole_for_one_kind_of_record_leaves_the_known_ones(server: NameServer) -> None:
    """The filter answers A with 0.0.0.0, and passes AAAA."""
    server.records[NAME, "A"] = ["10.0.0.1"]
    server.records[NAME, "AAAA"] = ["fd00::1"]
    async with running(source(server, f"http://{NAME}")) as lists:
        await lists.until_urls("http://10.0.0.1:80", "http://[fd00::1]:80")
        server.records[NAME, "A"] = ["0.0.0.0"]
        await server.asked_again(NAME, "A", 3)
        assert len(lists.all) == 1
