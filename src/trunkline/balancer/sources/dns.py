"""Backends by DNS: the addresses of a name, or the targets of a service.

Facts:

- `http://name:port` (https, ws and wss too; the port is 80 or 443 by default): every A and AAAA record is a backend. A
  host with addresses of both kinds therefore counts twice; give such hosts SRV records or names of one kind.
- `srv+http://_ws._tcp.name` (or srv+https): every target of the SRV records is a backend with the record's port
  (RFC 2782). Those of a higher priority number are backups: they get connections while no backend of a lower one can
  take any. A port of 0 is no place to connect to: such a record is left out. A target is one server: its IPv4
  addresses, or its IPv6 addresses when it has no other. Weights are taken beside the mean of their priority, so that
  equal weights make 1.0; a weight of 0 beside others is a tenth of a weight of 1, since RFC 2782 wants it small, and 0
  here would mean never.
- Names are resolved again after the shortest TTL of the answers, at most `balancer.dns_interval_ms` and at least one
  second later.
- A name that DNS does not have is resolved by the system (hosts file, mDNS), as are `localhost` and addresses.
- Resolvers may give a random part of many records. What an answer lacks stays while its health checks are good, as
  `dns_answers` has it.
- An unspecified address (0.0.0.0, ::), which sinkholes and filters answer, is no answer.
- SERVFAIL, a time-out, or a name that had addresses and has none now keep the last list: an outage of DNS is no reason
  to stop serving, and health checks know better whether a backend is gone. An SRV record with the target `.` is no
  failure: by RFC 2782 it means that the service does not exist.
- Over TLS the certificate must name the configured name, not what DNS made of it: for SRV the domain behind
  `_service._proto` (RFC 9525 section 6.3), so that a forged answer cannot name a server of its own choice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.resolver
import msgspec
import structlog
from dns.rdatatype import AAAA, SRV, A, RdataType

from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.dns_answers import Parts, Target, is_usable, weigh
from trunkline.errors import SettingsError
from trunkline.placement.backend import BackendSpec, canonical_url, place_of

log = structlog.get_logger("trunkline.balancer")

FLOOR_S = 1.0
MAX_BACKENDS = 1000
"""Backends that one name may stand for; an answer of more is cut, for it is no fleet but a mistake or an attack."""
_QUERY_S = 2.0
_LOOKUPS_AT_ONCE = 16
_LOOKUP_S = 5.0
_LABELS = re.compile(r"^(_[^.]+\.)+")


class DnsName(msgspec.Struct, frozen=True):
    """One entry of `balancer.dns`; without a port SRV records name it."""

    host: str
    port: int | None
    tls: bool

    @property
    def server_name(self) -> str:
        """The name that a backend's certificate must have; empty without TLS."""
        if not self.tls:
            return ""
        return self.host if self.port is not None else _LABELS.sub("", self.host)

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"srv+{scheme}://{self.host}" if self.port is None else f"{scheme}://{self.host}:{self.port}"


def parse_name(text: str) -> DnsName:
    """Read one entry of `balancer.dns`; raises SettingsError when it is neither kind."""
    service = text.strip().startswith("srv+")
    try:
        place = place_of(text.strip().removeprefix("srv+"))
        if service and re.search(r":\d+/?$", text.strip()):
            raise ValueError("SRV records name the port; write it without one")
        if service and _is_address(place.host):
            raise ValueError("an address has no SRV records")
    except ValueError as error:
        allowed = f'allowed: "http://name:port" or "srv+http://_ws._tcp.name" ({error})'
        raise SettingsError("balancer.dns", value=text, allowed=allowed) from None
    return DnsName(place.host.rstrip("."), None if service else place.port, place.tls)


class DnsSource:
    """The backends that names stand for; raises SettingsError for an entry that is neither kind.

    Args:
        interval_ms: longest time until a name is resolved again, `balancer.dns_interval_ms`.
        is_well: whether the health checks of a backend are good, by its URL.
        nameservers: addresses of name servers instead of the system's.
        floor_s: shortest time until a name is resolved again.
        lookup_s: longest time that one lookup may take, over all name servers and tries.
    """

    def __init__(
        self,
        names: Sequence[str],
        interval_ms: int,
        is_well: Callable[[str], bool],
        *,
        nameservers: Sequence[str] | None = None,
        port: int = 53,
        floor_s: float = FLOOR_S,
        lookup_s: float = _LOOKUP_S,
    ) -> None:
        self._interval_s = interval_ms / 1000
        self._floor_s = floor_s
        lookup = _Lookup(None if nameservers is None else tuple(nameservers), port, lookup_s)
        self._watches = [_Watch(parse_name(text), lookup, is_well) for text in dict.fromkeys(names)]
        self._sent: tuple[BackendSpec, ...] | None = None

    async def run(self, update: Update) -> None:
        """Resolve the names and give their backends at each change, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(self._follow(watch, update))
            self._update_all(update)
            await asyncio.Event().wait()

    async def _follow(self, watch: _Watch, update: Update) -> None:
        pause = self._floor_s
        while True:
            ttl = await watch.resolve()
            self._update_all(update)
            # After a failure there is no TTL: soon again, then ever later.
            pause = min(pause * 2, self._interval_s) if ttl is None else min(ttl, self._interval_s)
            await asyncio.sleep(max(pause, self._floor_s))

    def _update_all(self, update: Update) -> None:
        if any(watch.specs is None for watch in self._watches):
            return  # the first list is given when every name was tried once
        specs = tuple({spec.url: spec for watch in self._watches for spec in watch.specs or ()}.values())
        if specs != self._sent:
            self._sent = specs
            update(specs)


class _Unresolved(Exception):
    """No answer of use; the text says why."""


class _Host(msgspec.Struct):
    """What was last known of a host's addresses, by kind of record."""

    known: dict[RdataType, list[str]] = {}
    parts: Parts[str] = msgspec.field(default_factory=Parts)
    in_dns: bool = False
    failing: bool = False


class _Watch:
    """One name, with what is known of it."""

    def __init__(self, name: DnsName, lookup: _Lookup, is_well: Callable[[str], bool]) -> None:
        self._name = name
        self._lookup = lookup
        self._is_well = is_well
        self._targets: Parts[tuple[str, int]] = Parts()
        self._records: dict[tuple[str, int], Target] = {}
        self._ports_wrong = False
        self._failing = False
        self._hosts: dict[str, _Host] = {}
        self.specs: tuple[BackendSpec, ...] | None = None

    async def resolve(self) -> float | None:
        """Ask once; seconds for which the answer holds, or None when there was none and the last one stays."""
        try:
            specs, ttl = await (self._service() if self._name.port is None else self._plain(self._name.port))
        except _Unresolved as error:
            self.specs = self.specs or ()
            if not self._failing:
                self._failing = True
                log.warning("dns_failing", name=str(self._name), why=str(error), keeps_backends=len(self.specs))
            return None
        if len(specs) > MAX_BACKENDS:
            log.warning("dns_answer_cut", name=str(self._name), backends=len(specs), limit=MAX_BACKENDS)
            specs = specs[:MAX_BACKENDS]
        if self._failing:
            self._failing = False
            log.info("dns_recovered", name=str(self._name), backends=len(specs))
        self.specs = tuple(specs)
        return ttl

    async def _plain(self, port: int) -> tuple[list[BackendSpec], float]:
        host = self._hosts.setdefault(self._name.host, _Host())
        found, ttl = await self._lookup.addresses(self._name.host, host)
        addresses = _sorted(self._with_missing(host, found, (port,)))
        return [self._spec(address, port, 1.0, "", 0) for address in addresses], ttl

    def _with_missing(self, host: _Host, found: Sequence[str], ports: Sequence[int]) -> list[str]:
        """The addresses of an answer, and those that it lacks although they are there."""

        def is_well(address: str) -> bool:
            return any(self._is_well(self._url(address, port)) for port in ports)

        return host.parts.take(found, asyncio.get_running_loop().time(), is_well)

    async def _service(self) -> tuple[list[BackendSpec], float]:
        targets, ttl = await self._lookup.targets(self._name.host)
        if not any(target.host for target in targets):
            self._targets = Parts()
            return [], ttl
        named = [target for target in targets if target.host and target.port]
        self._complain_of_ports(len(targets) - len(named))
        if not named:
            raise _Unresolved("all its SRV records have port 0")
        used = weigh(self._with_missing_targets(named))[:MAX_BACKENDS]
        names = tuple(dict.fromkeys(each.target.host for each in used))
        self._hosts = {name: self._hosts.get(name) or _Host() for name in names}
        ports: dict[str, list[int]] = {name: [] for name in names}
        for each in used:
            ports[each.target.host].append(each.target.port)
        answers = await asyncio.gather(*(self._target(name, ports[name]) for name in names))
        found = dict(zip(names, answers, strict=True))
        if not any(addresses for addresses, _ in answers):
            raise _Unresolved(f"none of its targets has an address: {', '.join(names[:5])}")
        specs = []
        for target, weight, tier in used:
            addresses, _ = found[target.host]
            share = weight / max(len(addresses), 1)
            specs += [self._spec(address, target.port, share, target.host, tier) for address in addresses]
        return specs, min(ttl, *(ttl for _, ttl in answers))

    def _with_missing_targets(self, named: Sequence[Target]) -> list[Target]:
        """The records of an answer, and those of host and port that it lacks although they are there."""
        # Of two records of one place the lower priority number holds.
        newest = {(each.host, each.port): each for each in sorted(named, key=lambda each: -each.priority)}
        places = self._targets.take(tuple(newest), asyncio.get_running_loop().time(), self._target_is_well)
        self._records = {place: newest.get(place) or self._records[place] for place in places}
        return list(self._records.values())

    def _target_is_well(self, place: tuple[str, int]) -> bool:
        host = self._hosts.get(place[0])
        return host is not None and any(self._is_well(self._url(address, place[1])) for address in host.parts.items)

    def _complain_of_ports(self, wrong: int) -> None:
        if wrong and not self._ports_wrong:
            log.warning(
                "dns_port_zero", name=str(self._name), records=wrong, text="SRV records with port 0 are left out"
            )
        self._ports_wrong = bool(wrong)

    async def _target(self, name: str, ports: Sequence[int]) -> tuple[list[str], float]:
        """Addresses of an SRV target, its last ones when it cannot be resolved."""
        host = self._hosts[name]
        try:
            found, ttl = await self._lookup.addresses(name, host)
            addresses = _sorted(self._with_missing(host, found, ports))
        except _Unresolved as error:
            addresses, ttl = _sorted(host.parts.items), 0.0
            if not host.failing:
                why = str(error)
                log.warning("dns_target_failing", name=str(self._name), target=name, why=why, keeps=len(addresses))
            host.failing = True
        else:
            host.failing = False
        return [address for address in addresses if ":" not in address] or addresses, ttl

    def _spec(self, address: str, port: int, weight: float, name: str, tier: int) -> BackendSpec:
        return BackendSpec(
            url=self._url(address, port),
            weight=weight,
            source="dns",
            name=name,
            server_name=self._name.server_name,
            tier=tier,
        )

    def _url(self, address: str, port: int) -> str:
        bracketed = f"[{address}]" if ":" in address else address
        return canonical_url(f"{'https' if self._name.tls else 'http'}://{bracketed}:{port}")


class _Lookup:
    """Questions to the name servers, and to the system for what they do not know."""

    def __init__(self, nameservers: tuple[str, ...] | None, port: int, lookup_s: float) -> None:
        self._nameservers = nameservers
        self._port = port
        self._lookup_s = lookup_s
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._gate = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def targets(self, name: str) -> tuple[list[Target], float]:
        """The SRV records of `name` and the seconds they hold; the target `.` is an empty host."""
        records, ttl = await self._ask(name, SRV)
        if not records:
            raise _Unresolved("it has no SRV records")
        return [
            Target(one.priority, one.weight, one.port, one.target.to_text(omit_final_dot=True).rstrip(".").lower())
            for one in records
        ], ttl

    async def addresses(self, name: str, host: _Host) -> tuple[list[str], float]:
        """The addresses of `name` and the seconds they hold; what is learned is kept in `host`."""
        if _is_address(name):
            return [name], math.inf
        if name == "localhost" or name.endswith(".localhost"):
            return await self._of_system(name), math.inf
        answers = await asyncio.gather(self._ask(name, A), self._ask(name, AAAA), return_exceptions=True)
        why = "it has no A and no AAAA record"
        fresh: dict[RdataType, list[str]] = {}
        ttls: list[float] = []
        for kind, answer in zip((A, AAAA), answers, strict=True):
            if isinstance(answer, _Unresolved):
                why = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                used = [one.address for one in answer[0] if is_usable(one.address)]
                if answer[0] and not used:
                    why = f"its address {answer[0][0].address} is of no use (a sinkhole or a filter?)"
                    continue
                fresh[kind] = used
                ttls += [answer[1]] if used else []
        if any(fresh.values()):
            # Of a kind of record that failed the last known ones stay: some name servers cannot answer AAAA at all.
            host.known.update(fresh)
            host.in_dns = True
            return _united(host.known), min(ttls)
        if host.in_dns:
            raise _Unresolved(why)
        try:
            return await self._of_system(name), math.inf
        except _Unresolved as error:
            raise _Unresolved(f"{why}; {error}") from None

    async def _of_system(self, name: str) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._lookup_s):
                found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:  # a time-out is one too
            raise _Unresolved(f"the system does not know it either ({error.strerror or 'no answer in time'})") from None
        except ValueError:  # a label too long, or one that IDNA does not have
            raise _Unresolved("the system cannot look up such a name") from None
        addresses = [str(address[0]) for *_, address in found if is_usable(str(address[0]))]
        if not addresses:
            raise _Unresolved("the system has no address of use for it")
        return addresses

    async def _ask(self, name: str, kind: RdataType) -> tuple[list[Any], float]:
        """Records of one kind, none when the name has no such records, and the seconds they hold."""
        async with self._gate:
            try:
                resolver = self._resolver = self._resolver or self._open()
                answer = await resolver.resolve(
                    name, kind, raise_on_no_answer=False, search=True, lifetime=self._lookup_s
                )
            except dns.resolver.NXDOMAIN:
                raise _Unresolved("there is no such name (NXDOMAIN)") from None
            except (dns.exception.DNSException, OSError, ValueError) as error:
                # The system's name servers may have changed; its file is read again next time.
                self._resolver = None
                raise _Unresolved(str(error) or type(error).__name__) from None
        if answer.rrset is None:
            return [], math.inf
        return list(answer.rrset), float(answer.chaining_result.minimum_ttl)

    def _open(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=self._nameservers is None)
        if self._nameservers is not None:
            resolver.nameservers = list(self._nameservers)
            resolver.port = self._port
        resolver.timeout = min(_QUERY_S, self._lookup_s)
        return resolver


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _united(known: Mapping[RdataType, Sequence[str]]) -> list[str]:
    return [address for addresses in known.values() for address in addresses]


def _sorted(addresses: Sequence[str]) -> list[str]:
    """Each address once, in a fixed order: name servers turn theirs from answer to answer."""
    return sorted(set(addresses), key=lambda text: (":" in text, ipaddress.ip_address(text).packed))
