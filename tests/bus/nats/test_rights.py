"""The users of deploy/nats/nats.conf on a real server: each part does all it needs, and can do nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from tests.load.workers.test_agents import COMMAND, plan
from tests.support.deploy.real_fleet import real_fleet
from tests.support.environment import environment
from tests.support.load.seen_seconds import Seen
from tests.support.patience import patient
from tests.support.server.bus_probe import until
from tests.support.server.restricted_nats import USERS, RestrictedNats, RestrictedScene, password
from trunkline.bus.base import Entry, Publication, Retention
from trunkline.bus.nats.bus import NatsBus
from trunkline.bus.nats.store import LinkedNatsStore
from trunkline.deploy.run import read_status, run_deploy
from trunkline.errors import BusCannotStore, BusForbids
from trunkline.load.model.run_plan import AgentGroup
from trunkline.load.workers.agent import Agent
from trunkline.load.workers.allowed_targets import parse_allowed
from trunkline.load.workers.coordinator import Coordinator
from trunkline.load.workers.hiring import Alive, Subjects
from trunkline.load.workers.parcels import connect
from trunkline.nats.address import parse_address
from trunkline.protocol.control import DrainOrder
from trunkline.protocol.subjects import drain_subject

KEPT = Retention(1000, 300.0)
STREAM = "TRUNKLINE_1000_300S"

PUBLISH: dict[str, set[str]] = {
    "trunkline.log.1000_300s.a": {"node", "publisher"},
    "trunkline.live.a": {"node"},
    "trunkline.live.presence.a": {"node", "publisher"},
    "trunkline.fleet.report": {"node"},
    "trunkline.fleet.goodbyes": {"node"},
    "trunkline.fleet.hello": {"node", "balancer", "deploy", "console"},
    "trunkline.fleet.picks": {"balancer"},
    "trunkline.fleet.move.n1": {"balancer", "deploy"},
    "trunkline.fleet.keys.n1": {"balancer", "console"},
    "trunkline.fleet.drain.n1": {"deploy"},
    "trunkline.fleet.undrain.n1": {"deploy"},
    "trunkline.fleet.counts.n1": {"deploy"},
    "trunkline.store.traffic": set(),
    "$KV.trunkline.traffic": {"balancer"},
    "$KV.trunkline.versions": {"balancer"},
    "$KV.trunkline.deploy": {"deploy"},
    "$KV.trunkline.deploy-record": {"deploy"},
    "$KV.trunkline.deploy-order": {"deploy"},
    "$KV.trunkline.deploys.d1": {"deploy"},
    "$KV.trunkline.other": set(),
    "$KV.other.traffic": set(),
    f"$JS.API.STREAM.INFO.{STREAM}": {"node", "keeper"},
    f"$JS.API.STREAM.MSG.GET.{STREAM}": {"node"},
    f"$JS.API.DIRECT.GET.{STREAM}": {"node"},
    "$JS.API.STREAM.INFO.KV_trunkline": {"balancer", "deploy", "console", "keeper"},
    "$JS.API.STREAM.MSG.GET.KV_trunkline": {"balancer", "deploy", "console"},
    "$JS.API.DIRECT.GET.KV_trunkline": set(),
    "$JS.API.DIRECT.GET.KV_trunkline.$KV.trunkline.traffic": set(),
    **{
        f"$JS.API.STREAM.{verb}.{name}": ({"keeper"} if verb in ("CREATE", "UPDATE") else set())
        for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE")
        for name in (STREAM, "KV_trunkline", "ANY")
    },
    f"$JS.API.CONSUMER.CREATE.{STREAM}": set(),
    "$JS.API.CONSUMER.CREATE.KV_trunkline": set(),
    "$JS.API.INFO": set(),
    "$SYS.REQ.SERVER.PING": set(),
    **{f"trunkline.inbox.{user}.x": {user} for user in USERS},
    **{f"trunkline.inbox.{user}.x": {user, "node"} for user in ("balancer", "deploy", "console")},
    "trunkline.inbox.load.x": {"load", "agent"},
    "trunkline.load.a1.ask": {"load", "agent"},
    "trunkline.load.a1.run.0.to": {"load"},
    "trunkline.load.a1.run.0.from": {"agent"},
    "_INBOX.x": set(),
    "anything": set(),
}
"""Who may publish there."""

SUBSCRIBE: dict[str, set[str]] = {
    "trunkline.live.>": {"node"},
    "trunkline.log.>": set(),
    "trunkline.store.>": {"balancer", "deploy", "console"},
    "trunkline.fleet.report": {"node", "balancer", "deploy", "console"},
    "trunkline.fleet.goodbyes": {"node", "balancer", "console"},
    "trunkline.fleet.picks": {"balancer", "console"},
    "trunkline.fleet.hello": {"node"},
    **{f"trunkline.fleet.{order}.n1": {"node"} for order in ("move", "keys", "drain", "undrain", "counts")},
    "$JS.EVENT.ADVISORY.STREAM.*.*": {"node", "deploy", "keeper"},
    "$JS.EVENT.>": set(),
    "$KV.>": set(),
    "$SYS.>": set(),
    **{f"trunkline.inbox.{user}.>": {user} for user in USERS},
    "trunkline.load.a1.ask": {"agent"},
    "trunkline.load.a1.run.0.to": {"agent"},
    "trunkline.load.a1.run.0.from": {"load"},
    "trunkline.inbox.>": set(),
    "trunkline.>": set(),
    ">": set(),
}
"""Who may subscribe there."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestrictedNats]:
    """The server of the template."""
    found = await RestrictedNats.start(tmp_path / "restricted")
    yield found
    await found.stop()


async def prepare(server: RestrictedNats) -> None:
    """What `trunkline bus prepare` does."""
    bus = NatsBus(server.bus("keeper"), lambda _: KEPT, [KEPT])
    await bus.start(lambda _: None)
    await bus.prepare()
    await bus.close()


@pytest.mark.parametrize("user", USERS)
async def test_each_user_may_do_what_the_table_says(server: RestrictedNats, user: str) -> None:
    """And nothing else of what there is: publications, orders, the store, streams, other users' inboxes."""
    refused: list[str] = []

    async def reported(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(
        f"nats://127.0.0.1:{server.port}", user=user, password=password(user), error_cb=reported,
        allow_reconnect=False,
    )  # fmt: skip
    try:
        for subject in PUBLISH:
            await client.publish(subject, b"{}")
        for subject in SUBSCRIBE:
            await client.subscribe(subject)
        # A PING could overtake what waits to be written; this comes behind all of it.
        end = await client.subscribe(f"trunkline.inbox.{user}.end")
        await client.publish(f"trunkline.inbox.{user}.end", b"")
        await end.next_msg(timeout=patient(10))
    finally:
        await client.close()
    for does, table in (("publish", PUBLISH), ("subscription", SUBSCRIBE)):
        allowed = {each for each in table if not any(f'for {does} to "{each.lower()}"' in text for text in refused)}
        assert allowed == {each for each, users in table.items() if user in users}, does


async def test_nobody_comes_in_without_a_password(server: RestrictedNats) -> None:
    """Nor with another user's."""
    for given in ({}, {"user": "node", "password": password("keeper")}, {"user": "admin", "password": "x"}):
        with pytest.raises(nats.errors.Error):
            await nats.connect(
                f"nats://127.0.0.1:{server.port}", allow_reconnect=False, max_reconnect_attempts=1, **given
            )


async def test_a_whole_deploy_by_users_of_their_own(server: RestrictedNats, tmp_path: Path) -> None:
    """Nodes, a balancer and a deploy, each as its user: clients move, the table is written, a verdict is kept."""
    await prepare(server)
    scene = RestrictedScene(server)
    with capture_logs() as lines:
        async with real_fleet(tmp_path, each=1, scene=scene) as fleet, fleet.parts() as parts:
            outcome = await run_deploy(fleet.options(over_s=1.0, verify_s=1.0, witnesses=3), parts)
            assert (outcome.state, outcome.exit_code) == ("done", 0), outcome.verdict
            status = await read_status(parts.store)
            assert status is not None
            assert await parts.store.keys("deploys.") == (f"deploys.{status.id}",)
    assert not [line for line in lines if line["event"] == "nats forbids"]


async def test_history_and_live_of_a_node(server: RestrictedNats) -> None:
    """A node stores, reads back and is delivered what it and an application of its own user publish."""
    await prepare(server)
    got: list[Publication] = []
    node = NatsBus(server.bus("node"), lambda channel: Retention(0, 0) if channel.startswith("presence") else KEPT)
    publisher = NatsBus(server.bus("publisher"), lambda _: KEPT)
    await node.start(lambda _: None)
    try:
        await node.subscribe("room", got.append)
        await node.subscribe("presence.room", got.append)
        await node.publish("room", b"1")
        await node.publish("presence.room", b"2")
        client = await nats.connect(
            f"nats://127.0.0.1:{server.port}", user="publisher", password=password("publisher"),
            inbox_prefix="trunkline.inbox.publisher",
        )  # fmt: skip
        ack: Msg = await client.request("trunkline.log.1000_300s.room", b"3", timeout=patient(5))
        assert b'"seq":2' in ack.data.replace(b" ", b"")
        await client.close()
        await until(lambda: len(got) == 3)
        page = await node.history("room", 0, 10)
        assert [each.data for each in page.publications] == [b"1", b"3"]
    finally:
        await node.close()
        await publisher.close()


async def test_a_node_before_anybody_has_prepared(server: RestrictedNats) -> None:
    """It is connected, channels without history work, and the error names the stream and the command to run."""
    node = NatsBus(server.bus("node"), lambda channel: Retention(0, 0) if channel == "live" else KEPT, [KEPT])
    await node.start(lambda _: None)
    try:
        assert node.connected
        await node.publish("live", b"1")
        with pytest.raises(BusCannotStore, match=rf"no stream {STREAM}, .*CREATE.{STREAM}.*trunkline bus prepare"):
            await node.publish("room", b"1")
        await prepare(server)
        assert (await node.publish("room", b"1")).offset == 1
    finally:
        await node.close()


async def test_a_node_cannot_write_the_traffic_table(server: RestrictedNats) -> None:
    """Nor read it; the error comes at once and names the subject. A balancer can, once the bucket is there."""
    early = LinkedNatsStore(server.bus("balancer"))
    await early.start()
    with pytest.raises(BusCannotStore, match=r"no bucket trunkline, .*trunkline bus prepare"):
        await early.put("traffic", b"{}", 0)
    await early.close()
    await prepare(server)
    stores = {user: LinkedNatsStore(server.bus(user)) for user in ("node", "balancer", "console")}
    for store in stores.values():
        await store.start()
    try:
        with capture_logs() as lines:
            with pytest.raises(BusForbids, match=r"user 'node' to publish on \$JS\.API\.STREAM\.\S+\.KV_trunkline"):
                await stores["node"].put("traffic", b"{}", None)
            with pytest.raises(BusForbids):
                await stores["node"].get("traffic")
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["nats forbids"] * 2
        await stores["balancer"].put("traffic", b"{}", 0)
        found = await stores["console"].get("traffic")
        assert found is not None
        with pytest.raises(
            BusForbids, match=r"did not take traffic: .*'console' to publish on \$KV\.trunkline\.traffic"
        ):
            await stores["console"].put("traffic", b"[]", None)
        with pytest.raises(BusForbids, match=r"\$KV\.trunkline\.deploy"):
            await stores["balancer"].put("deploy", b"{}", None)
    finally:
        for store in stores.values():
            await store.close()


async def test_what_others_are_answered_gives_no_rights(server: RestrictedNats) -> None:
    """A node that names the traffic table, or another node's orders, as the address of an answer sets neither.

    Its own message gives it no right to answer there; what JetStream sends there is no entry and no order.
    """
    await prepare(server)
    scene = RestrictedScene(server)
    node, store = await scene.node("n1"), LinkedNatsStore(server.bus("balancer"))
    await store.start()
    first = await store.put("traffic", b"{}", 0)
    client = await nats.connect(
        f"nats://127.0.0.1:{server.port}", user="node", password=password("node"), allow_reconnect=False,
        inbox_prefix="trunkline.inbox.node",
    )  # fmt: skip
    try:
        await client.subscribe("trunkline.live.x")
        await client.publish("trunkline.live.x", b"", reply="$KV.trunkline.traffic")
        await client.publish("$KV.trunkline.traffic", b"forged")
        await client.request("trunkline.log.1000_300s.x", b'{"over_ms":0}', timeout=patient(5))
        entry = await store.get("traffic")
        assert entry == Entry("traffic", b"{}", first)
        question = b'{"last_by_subj":"trunkline.log.1000_300s.x"}'
        with capture_logs() as lines:
            for target in ("$KV.trunkline.traffic", "trunkline.fleet.drain.n1"):
                await client.publish(f"$JS.API.DIRECT.GET.{STREAM}", question, reply=target)
            await until(lambda: any(line["event"] == "order_refused" for line in lines))
        assert node.condition == "up"
        async with asyncio.timeout(patient(5)):
            while await store.get("traffic") is not None:
                await asyncio.sleep(0.05)
        assert await store.put("traffic", b"{}", 0) > first
    finally:
        await client.close()
        await store.close()
        await scene.close()


async def test_a_node_with_clients_drains(server: RestrictedNats) -> None:
    """At a deploy's order; it asks the others for reports, so that all of them drain at one pace."""
    await prepare(server)
    scene = RestrictedScene(server)
    deploy = NatsBus(server.bus("deploy"), lambda _: KEPT)
    await deploy.start(lambda _: None)
    try:
        with capture_logs() as lines:
            node = await scene.node("n1")
            await scene.call(node)
            link = deploy.fleet_link
            await link.ask(drain_subject(link.prefix, "n1"), msgspec.json.encode(DrainOrder(500)), patient(5))
            await until(lambda: not node.registry.connections)
            assert not [line for line in lines if line["event"] == "nats forbids"]
    finally:
        await deploy.close()
        await scene.close()


async def test_a_load_test_by_users_of_its_own(server: RestrictedNats) -> None:
    """An agent takes work from the user `load`, and what it measures comes back."""
    connection = await connect(parse_address(server.bus("agent").url), "agent", "trunkline")
    agent = Agent(connection.client, Subjects("trunkline", "a1"), parse_allowed(["127.0.0.1"]), command=COMMAND)
    await agent.start()
    try:
        group = AgentGroup(("a1",), server.bus("load").url)
        async with asyncio.timeout(patient(40)):
            outcome = await Coordinator(
                msgspec.structs.replace(plan("", ("a1",)), agents=group), Seen().second, worker_command=COMMAND
            ).run()
        assert (outcome.failures, outcome.missing_workers, outcome.sum.reasons.total() > 0) == ([], (), True)
        # An order that nobody waits for, as JetStream can be made to send one.
        with capture_logs() as lines:
            await connection.client.publish("trunkline.load.a1.ask", msgspec.msgpack.encode(Alive("r")))
            await until(lambda: any(line["event"] == "message_ignored" for line in lines))
    finally:
        await agent.close()
        await connection.close()


@pytest.mark.process
async def test_the_command_that_prepares(server: RestrictedNats, tmp_path: Path) -> None:
    """It makes what is missing and says so; run again it changes nothing; as another user it says what is forbidden."""

    def said(user: str, code: int) -> str:
        command = [sys.executable, "-m", "trunkline", "bus", "prepare"]
        environ = environment(tmp_path) | {
            "TRUNKLINE_BUS_URL": server.bus(user).url, "TRUNKLINE_BUS_MAX_BYTES": "16MiB",
        }  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=patient(20), check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert password(user) not in done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "does not allow" in await asyncio.to_thread(said, "publisher", 2)
    for _ in range(2):
        assert "the bucket trunkline are there" in await asyncio.to_thread(said, "keeper", 0)
    node = NatsBus(server.bus("node"), lambda _: KEPT, [KEPT])
    await node.start(lambda _: None)
    assert (node.problem, node.warning) == ("", "")
    await node.close()
