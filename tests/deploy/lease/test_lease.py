"""The lease of a deploy over a store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from tests.support.patience import patient
from tests.support.server.bus_probe import settings, until
from trunkline.bus.base import FleetStore
from trunkline.bus.nats.store import LinkedNatsStore
from trunkline.bus.store.memory import MemoryStore
from trunkline.deploy.lease import lease as lease_module
from trunkline.deploy.lease.lease import Lease, LeaseHeld, LeaseLost, NothingToResume, StatusUnreadable, begin, resume
from trunkline.deploy.lease.rules import LeaseTimes
from trunkline.errors import BusUnavailable
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.protocol.deploys import DEPLOY_KEY, DeployStatus

HOLDER = """
import asyncio, sys
import msgspec
from trunkline.bus.nats.store import LinkedNatsStore
from trunkline.deploy.lease.lease import begin
from trunkline.deploy.lease.rules import LeaseTimes
from trunkline.protocol.deploys import DeployStatus
from trunkline.settings.sections import BusSettings

async def main():
    store = LinkedNatsStore(BusSettings(url=sys.argv[1], prefix="t"))
    await store.start()
    status = DeployStatus("d1", "planned", "blue", "green", "ann", "", 0, "…", "…")
    lease = await begin(store, status, times=LeaseTimes(renew_s=0.05))
    await lease.write(state="moving", record=msgspec.Raw(b"[7]"))
    print("moving", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""

STATUS = DeployStatus("d1", "planned", "blue", "green", "ann@host:7", "", 0, "2026-01-01T00:00:00Z", "2026-01-01T…")
SHORT = LeaseTimes(renew_s=0.05, holds_s=0.2, expired_s=0.3)


async def stored(store: FleetStore) -> DeployStatus:
    entry = await store.get(DEPLOY_KEY)
    assert entry is not None
    return msgspec.json.decode(entry.value, type=DeployStatus)


@pytest_asyncio.fixture
async def leases() -> AsyncIterator[list[Lease]]:
    """Leases that are closed after the test."""
    leases: list[Lease] = []
    yield leases
    for each in leases:
        await each.close()


class Forgetful(MemoryStore):
    """A store whose answers can be lost: what is put is stored, and its caller does not learn it."""

    lose = 0

    async def put(self, key: str, value: bytes, expect: int | None) -> int:
        revision = await super().put(key, value, expect)
        if self.lose:
            self.lose -= 1
            raise BusUnavailable("the answer was lost")
        return revision


async def test_one_of_two_begins(leases: list[Lease]) -> None:
    """Of two who begin at once one does; the other learns who drives it, in what state, since when."""
    store = MemoryStore()
    results = await asyncio.gather(begin(store, STATUS), begin(store, STATUS), return_exceptions=True)
    leases += [each for each in results if isinstance(each, Lease)]
    assert len(leases) == 1
    await leases[0].write(state="moving")
    with pytest.raises(LeaseHeld, match=r"ann@host:7") as caught:
        await begin(store, STATUS)
    assert caught.value.status.state == "moving"
    assert caught.value.status.since in str(caught.value)


async def test_what_is_written_is_stored(leases: list[Lease]) -> None:
    """State and record are in the store when `write` returns; the state's time changes with the state alone."""
    store = MemoryStore()
    lease = await begin(store, STATUS)
    leases.append(lease)
    await lease.write(state="starting", record=msgspec.Raw(b'{"n":1}'))
    first = await stored(store)
    assert (first.state, bytes(first.record)) == ("starting", b'{"n":1}')
    assert first.since != STATUS.since
    await lease.write(record=msgspec.Raw(b'{"n":2}'))
    second = await stored(store)
    assert (second.state, bytes(second.record), second.since) == ("starting", b'{"n":2}', first.since)
    assert second.renewals == first.renewals + 1
    assert lease.status == second


async def test_it_is_renewed_and_nobody_takes_it(leases: list[Lease]) -> None:
    """A lease that is renewed is found held by who waits for it to expire, before that time is over."""
    store = MemoryStore()
    leases.append(await begin(store, STATUS, times=SHORT))
    with pytest.raises(LeaseHeld):
        await resume(store, "bob", times=LeaseTimes(renew_s=0.1, expired_s=60))
    assert leases[0].sure


async def test_it_is_taken_when_it_has_expired(leases: list[Lease]) -> None:
    """Whoever resumes waits until the revision has stood still for long enough, and says so meanwhile."""
    store = MemoryStore()
    first = await begin(store, STATUS, times=SHORT)
    await first.write(state="moving", record=msgspec.Raw(b"[1]"))
    await first.close()
    waited: list[float] = []
    second = await resume(store, "bob", on_wait=lambda _, left_s: waited.append(left_s), times=SHORT)
    leases.append(second)
    assert waited
    assert not first.sure
    status = await stored(store)
    assert (status.state, bytes(status.record), status.owner) == ("moving", b"[1]", "bob")
    assert status.holder not in ("", first.status.holder)
    # The first one was not dead, and comes back.
    with pytest.raises(LeaseLost, match="bob"):
        await first.write(state="finishing")
    assert first.lost
    assert (await stored(store)).state == "moving"
    await second.write(state="finishing")


async def test_one_that_stands_still_learns_that_it_lost(leases: list[Lease]) -> None:
    """The renewal of one whose lease was taken ends it: it gives no more orders, and its end writes nothing."""
    store = MemoryStore()
    first = await begin(store, STATUS, times=SHORT)
    leases.append(first)
    store.reachable = False
    await until(lambda: not first.sure)
    store.reachable = True
    entry = await store.get(DEPLOY_KEY)
    assert entry is not None
    taken = msgspec.structs.replace(first.status, holder="other", owner="bob")
    with contextlib.suppress(Exception):
        await store.put(DEPLOY_KEY, msgspec.json.encode(taken), None)
    await until(lambda: first.lost)
    await first.give_up()
    assert (await stored(store)).holder == "other"


async def test_given_up_it_is_taken_at_once(leases: list[Lease]) -> None:
    """A lease that was given up keeps its state and is resumed without waiting."""
    store = MemoryStore()
    first = await begin(store, STATUS)
    await first.write(state="holding")
    await first.give_up()
    assert (await stored(store)).holder == ""
    with pytest.raises(LeaseHeld, match="resume"):
        await begin(store, STATUS)
    leases.append(await resume(store, "bob"))
    assert leases[0].status.state == "holding"


async def test_over_it_makes_way(leases: list[Lease]) -> None:
    """When a deploy is over another one begins, and there is nothing to resume; nor is there before the first one."""
    store = MemoryStore()
    with pytest.raises(NothingToResume, match="ever"):
        await resume(store, "bob")
    first = await begin(store, STATUS)
    await first.write(state="rolled_back")
    await first.give_up()
    with pytest.raises(NothingToResume, match="rolled_back"):
        await resume(store, "bob")
    leases.append(await begin(store, msgspec.structs.replace(STATUS, id="d2")))
    assert (await stored(store)).id == "d2"


async def test_lost_answers_lose_no_lease(leases: list[Lease], monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that was stored and whose answer was lost is recognized: taking, writing and giving up."""
    monkeypatch.setattr(lease_module, "AGAIN_S", 0.01)
    store = Forgetful()
    store.lose = 1
    first = await begin(store, STATUS)
    leases.append(first)
    for state in ("starting", "gating"):
        store.lose = 2
        await first.write(state=state)
        assert (await stored(store)).state == state
    store.lose = 1
    await first.give_up()
    assert not first.lost
    assert (await stored(store)).holder == ""
    store.lose = 1
    leases.append(await resume(store, "bob"))


async def test_a_give_up_whose_answer_was_lost_does_not_undo_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process resumed and ended the deploy before the second try: its state stands."""
    monkeypatch.setattr(lease_module, "AGAIN_S", 0.1)
    store = Forgetful()
    first = await begin(store, STATUS)
    await first.write(state="moving")
    store.lose = 1
    giving_up = asyncio.create_task(first.give_up())
    while (await stored(store)).holder:
        await asyncio.sleep(0)
    second = await resume(store, "bob")
    await second.write(state="done")
    await second.give_up()
    await giving_up
    assert (await stored(store)).state == "done"


async def test_a_store_that_lost_everything_has_lost_no_lease(leases: list[Lease]) -> None:
    """When the store comes back empty its holder writes the deploy again."""
    store = MemoryStore()
    lease = await begin(store, STATUS)
    leases.append(lease)
    await store.delete(DEPLOY_KEY, None)
    await lease.write(state="moving")
    assert (await stored(store)).state == "moving"


async def test_a_status_of_another_release_is_left_alone() -> None:
    """What cannot be read is neither resumed nor written over."""
    store = MemoryStore()
    await store.put(DEPLOY_KEY, b'{"state":"levitating"}', 0)
    for attempt in (begin(store, STATUS), resume(store, "bob")):
        with pytest.raises(StatusUnreadable, match="another release"):
            await attempt
    entry = await store.get(DEPLOY_KEY)
    assert entry is not None
    assert entry.value == b'{"state":"levitating"}'


async def test_it_outlives_a_killed_nats(tmp_path: Path, leases: list[Lease]) -> None:
    """NATS is killed and comes back: a write waits for it, and the lease is still its holder's."""
    server = await NatsServer.start(tmp_path)
    store = LinkedNatsStore(settings(server.url, "t", publish_timeout_s=0.3))
    await store.start()
    try:
        lease = await begin(store, STATUS, times=SHORT)
        leases.append(lease)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not lease.sure)
        writing = asyncio.create_task(lease.write(state="moving"))
        await server.stop()
        server = await NatsServer.start(tmp_path, port=server.port)
        await writing
        assert lease.sure
        assert (await stored(store)).holder == lease.status.holder
        assert (await stored(store)).state == "moving"
    finally:
        await lease.close()
        await store.close()
        await server.stop()


async def test_the_lease_of_a_killed_process_is_taken(tmp_path: Path, leases: list[Lease]) -> None:
    """While it lives nobody gets its lease; once it was killed its deploy goes on where it was."""
    server = await NatsServer.start(tmp_path)
    store = LinkedNatsStore(settings(server.url, "t"))
    await store.start()
    arguments = (sys.executable, "-c", HOLDER, server.url)
    holder = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert holder.stdout is not None
        async with asyncio.timeout(patient(20)):
            while await holder.stdout.readline() != b"moving\n":
                assert not holder.stdout.at_eof()
        with pytest.raises(LeaseHeld):
            await resume(store, "bob", times=LeaseTimes(renew_s=0.5, expired_s=patient(5)))
        holder.kill()
        await holder.wait()
        lease = await resume(store, "bob", times=SHORT)
        leases.append(lease)
        assert (lease.status.state, bytes(lease.status.record), lease.status.owner) == ("moving", b"[7]", "bob")
        await lease.write(state="finishing")
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()
        for each in leases:
            await each.close()
        await store.close()
        await server.stop()
