"""A small name server on loopback: answers from a table, can be silent or fail, and counts what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Literal, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.patience import patient

Trouble = Literal["SERVFAIL", "NXDOMAIN", "SILENT"]


class NameServer(asyncio.DatagramProtocol):
    """Records by (name, type); a name with no record at all is NXDOMAIN, one with others has no data of this type."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Sequence[str]] = {}
        self.trouble: dict[str, Trouble] = {}
        self.ttl = 3600
        self.asked: Counter[tuple[str, str]] = Counter()
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # by its type only from Python 3.12 on
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        trouble = self.trouble.get(f"{name}/{kind}", self.trouble.get(name))
        if trouble == "SILENT":
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        records = self.records.get((name, kind), ())
        if trouble is not None:
            answer.set_rcode(dns.rcode.from_text(trouble))
        elif records:
            answer.answer.append(dns.rrset.from_text_list(question.name, self.ttl, "IN", kind, list(records)))
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), addr)

    async def asked_again(self, name: str, kind: str, times: int = 1) -> None:
        """Wait until `name` was asked `times` times more."""
        target = self.asked[name, kind] + times
        async with asyncio.timeout(patient(10)):
            while self.asked[name, kind] < target:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A name server on a free UDP port of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
