"""Balancers hear each other and the nodes, and shrug off what is no message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from structlog.testing import capture_logs

from tests.support.balancer.talking import Ear, Scene, until
from trunkline.balancer.peers import MOST
from trunkline.balancer.sources.nats import NatsSource
from trunkline.balancer.talk import FleetTalk
from trunkline.errors import SettingsError
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.placement.backend import BackendSpec
from trunkline.protocol.control import LoadReport, NodeReport, PickNotice, PickNotices
from trunkline.settings.sections import BusSettings


async def test_notices_travel_together(scene: Scene) -> None:
    """What is noted in one round of the loop is one message to the others, in order, and none to oneself."""
    one, two = await scene.ear("one"), await scene.ear("two")
    notices = [PickNotice("p", "http://a:1", f"key{number}") for number in range(100)]
    for notice in notices:
        one.talk.note(notice)
    await until(lambda: two.notices)
    [(balancer, heard)] = two.notices
    assert balancer == "one"
    assert list(heard.notices) == notices
    two.talk.note(PickNotice("f", "http://a:1", "key1"))
    await until(lambda: one.notices)
    assert [balancer for balancer, _ in one.notices] == ["two"]


async def test_one_leads(scene: Scene) -> None:
    """Of several balancers one leads; when it goes, another does."""
    one, two = await scene.ear("one"), await scene.ear("two")
    assert not one.talk.leads
    assert not two.talk.leads
    await until(lambda: one.talk.leads)
    assert not two.talk.leads
    await one.talk.close()
    await until(lambda: two.talk.leads)


async def test_what_is_no_message(scene: Scene) -> None:
    """Broken, lying and overlong messages are counted, named in one line and change nothing."""
    ear = await scene.ear()
    good = NodeReport("n1", "ws://Host:3001/", LoadReport(3))
    wrong: list[Any] = [
        b"",
        b"{",
        b"[]",
        msgspec.json.encode({"node": "n", "url": "http://a:1", "report": {"agentsConnections": -1}}),
        msgspec.json.encode({"node": "n", "url": "http://a:1", "report": {"agentsConnections": "many"}}),
        msgspec.json.encode(NodeReport("n", "file:///etc/passwd", LoadReport(1))),
        msgspec.json.encode(NodeReport("n" * 300, "http://a:1", LoadReport(1))),
        msgspec.json.encode(NodeReport("n", "http://a:1", LoadReport(1, keys=("k" * 65,)))),
    ]
    with capture_logs() as lines:
        for data in wrong:
            await scene.publish("report", data)
        await scene.publish("picks", b'{"balancer":"x","notices":[["z","http://a:1","k"]]}')
        await scene.publish("report", msgspec.json.encode(good))
        await until(lambda: ear.reports)
    assert [said.url for said in ear.reports] == ["http://host:3001"]
    await until(lambda: ear.talk.ignored == len(wrong) + 1)
    assert len([line for line in lines if line["event"] == "message_ignored"]) == 1
    assert ear.talk.node_at("http://host:3001") == "n1"
    assert ear.talk.node_at("http://a:1") is None


async def test_keys_that_are_no_text_silence_nobody(scene: Scene) -> None:
    """A key of bytes that are no text, as a server's parser hands them on, is told as far as it is text."""
    one, two = await scene.ear("one"), await scene.ear("two")
    one.talk.note(PickNotice("p", "http://a:1", "\udcff\udcfe", "m\udcffé"))
    await until(lambda: two.notices)
    assert two.notices[0][1].notices == (PickNotice("p", "http://a:1", "??", "m?é"),)
    one.talk.note(PickNotice("p", "http://a:1", "k" * 5000))
    await until(lambda: len(two.notices) == 2)
    assert two.notices[1][1].notices == (PickNotice("p", "http://a:1", "k" * 256),)


async def test_many_notices_are_several_messages(scene: Scene) -> None:
    """What NATS would not take as one message goes out as several, in order and complete."""
    one, two = await scene.ear("one"), await scene.ear("two")
    notices = [PickNotice("p", "http://a:1", f"{number}", "\x01" * 256) for number in range(4500)]
    for notice in notices:
        one.talk.note(notice)
    await until(lambda: sum(len(said.notices) for _, said in two.notices) == len(notices))
    assert [notice for _, said in two.notices for notice in said.notices] == notices


async def test_who_speaks_too_much(scene: Scene) -> None:
    """A message of too many notices, and more balancers than there can be, are ignored."""
    ear = await scene.ear()
    await scene.publish("picks", msgspec.json.encode(PickNotices("x", (PickNotice("p", "", ""),) * 5000)))
    client = await nats.connect(scene.bus.url)
    for number in range(MOST):
        sign = msgspec.json.encode(PickNotices(f"b{number}", ()))
        await client.publish(f"{scene.bus.prefix}.fleet.picks", sign)
    await client.close()
    await scene.publish("picks", msgspec.json.encode(PickNotices("one more", (PickNotice("p", "", ""),))))
    await until(lambda: ear.talk.ignored == 2)
    assert not ear.notices


async def test_what_answers_is_no_nats() -> None:
    """A server that speaks something like NATS is named in the log, and asked again."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(b"INFO []\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    ear = Ear(BusSettings(url=f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    with capture_logs() as lines:
        await ear.talk.start()
        try:
            await until(lambda: asked >= 3)
        finally:
            await ear.talk.close()
            server.close()
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["nats_unreachable"]


async def test_a_listener_that_fails(scene: Scene) -> None:
    """A fault in who is told ends neither the subscription nor the connection."""
    heard: list[str] = []

    def listener(said: NodeReport) -> None:
        heard.append(said.node)
        raise RuntimeError(said.node)

    talk = FleetTalk(scene.bus, "b", listener, lambda *_: None, lambda _: None)
    await talk.start()
    try:
        await until(lambda: talk.connected)
        for name in ("n1", "n2"):
            await scene.publish("report", msgspec.json.encode(NodeReport(name, "http://a:1", LoadReport(1))))
        await until(lambda: heard == ["n1", "n2"])
    finally:
        await talk.close()


async def test_secrets_are_not_logged(unused_tcp_port: int) -> None:
    """An address that cannot be reached is named without what logs in; a CA file that is not there stops the start."""
    with capture_logs() as lines:
        ear = Ear(BusSettings(url=f"nats://me:hunter2@127.0.0.1:{unused_tcp_port}"))
        await ear.talk.start()
        await until(lambda: any(line["event"] == "nats_unreachable" for line in lines))
        await asyncio.sleep(0)
        await ear.talk.close()
    assert "hunter2" not in repr(lines)
    assert str(unused_tcp_port) in repr(lines)
    with pytest.raises(SettingsError, match="tls_ca_file"):
        Ear(BusSettings(url="tls://127.0.0.1:4222", tls_ca_file="/nowhere/ca.pem"))  # type: ignore[arg-type]


async def test_log_in(tmp_path: Path) -> None:
    """A token lets in; without TLS, an address that asks for it never shows the token."""
    server = await NatsServer.start(tmp_path / "nats", token="s3cret")
    try:
        ear = Ear(BusSettings(url=server.url))
        await ear.start()
        await ear.talk.close()
        for url in (f"nats://wr0ng@127.0.0.1:{server.port}", f"tls://s3cret@127.0.0.1:{server.port}"):
            with capture_logs() as lines:
                ear = Ear(BusSettings(url=url))
                await ear.talk.start()
                await until(lambda lines=lines: any(line["event"] == "nats_unreachable" for line in lines))
                await ear.talk.close()
            assert ear.states == []
            assert "s3cret" not in repr(lines)
            assert "wr0ng" not in repr(lines)
    finally:
        await server.stop()


async def test_source_follows_the_nodes(scene: Scene) -> None:
    """The source tells nodes as they come and go, before their report is passed on."""
    told: list[tuple[BackendSpec, ...]] = []
    source = NatsSource(900.0)
    talk = FleetTalk(scene.bus, "b", source.reported, lambda *_: None, source.connected)
    task = asyncio.create_task(source.run(lambda specs: told.append(tuple(specs))))
    await talk.start()
    try:
        await until(lambda: told)
        node = await scene.node("n1")
        await until(lambda: told[-1])
        [spec] = told[-1]
        assert spec == BackendSpec(f"http://127.0.0.1:{node.port}", source="nats", name="n1")
        await scene.kill_nats()
        await until(lambda: not talk.connected)
        await scene.bring_nats_back()
        await until(lambda: talk.connected and node.bus.connected)
        await scene.stop(node)
        await until(lambda: not told[-1])
        assert len(told) == 3
    finally:
        task.cancel()
        await talk.close()
