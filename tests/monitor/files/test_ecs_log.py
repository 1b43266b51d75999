"""The log format `ecs`: lines of real processes against the field types of the Elastic Common Schema."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import logging
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.free_ports import free_port
from tests.support.monitor.log_fields import types_of
from tests.support.monitor.serving import running
from tests.support.patience import patient
from trunkline.fleet.children.log import serious
from trunkline.logs import configure
from trunkline.logs.ecs import VERSION
from trunkline.monitor.files import logs
from trunkline.settings.sections import LogSettings, Settings

SECRET = "hunter2hunter2"
FIELDS = types_of(logs.files(Settings())["logs/elasticsearch/template-app.json"])
ALWAYS = {
    "@timestamp", "log.level", "message", "ecs.version", "service.name", "service.version", "service.node.name",
    "process.pid", "event.kind", "event.module", "event.dataset", "log.logger",
}  # fmt: skip

APP = f"""
import logging
from trunkline import App, Endpoint

app = App("faulty")

@app.websocket("/faulty", envelope=False)
class Faulty(Endpoint):
    def on_message(self, client, message):
        logging.getLogger("library").warning("password={SECRET} for %s", "/faulty", extra={{"token": "{SECRET}"}})
        raise LookupError("no nats://user:{SECRET}@bus")
"""


@pytest.fixture
def configured() -> Iterator[io.StringIO]:
    """Logging as `ecs` into a text; put back afterwards."""
    level = logging.getLogger().level
    out = io.StringIO()
    configure.configure(LogSettings(format="ecs"), service="trunkline-node", node="a", stream=out)
    yield out
    configure.close()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.getLogger().setLevel(level)


def fits(name: str, value: Any) -> bool:
    """Whether Elasticsearch takes the value with the field's type in our index template."""
    if name.startswith("labels."):
        return isinstance(value, str)
    if name.startswith("trunkline."):
        return isinstance(value, int | float) and not isinstance(value, bool)
    match FIELDS[name]:
        case "date":
            return datetime.fromisoformat(value).tzinfo is not None
        case "long":
            return type(value) is int
        case "ip":
            return bool(ipaddress.ip_address(value))
        case _:
            return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def checked(text: str) -> list[dict[str, Any]]:
    """Lines, each of which has what all must have, names the schema knows, and values of the right type."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines
    for line in lines:
        assert line.keys() >= ALWAYS, line
        assert line["ecs.version"] == VERSION
        for name, value in line.items():
            assert fits(name, value), f"{name} = {value!r} in {line}"
        # A name that is both a value and an object would be refused.
        assert not [name for name in line for other in line if other.startswith(f"{name}.")], line
    return lines


def of(lines: list[dict[str, Any]], action: str) -> dict[str, Any]:
    """The one line of an event."""
    [found] = [line for line in lines if line.get("event.action") == action]
    return found


async def test_lines_of_a_real_node(tmp_path: Path) -> None:
    """Start, connection, refusal, fault of a handler and stop: all lines fit, on standard output and in the files."""
    (tmp_path / "faulty.py").write_text(APP)
    port = free_port()
    async with running(
        tmp_path, "serve", "faulty:app", "--host", "127.0.0.1", "--port", str(port), "--name", "node-7",
        ready=f"http://127.0.0.1:{port}/ready",
        TRUNKLINE_ADMIN_PORT="0", TRUNKLINE_LOG_FORMAT="ecs", TRUNKLINE_LOG_DIRECTORY=str(tmp_path / "logs"),
        TRUNKLINE_SERVER_DRAIN_MS="0", PYTHONPATH=str(tmp_path),
    ) as process:  # fmt: skip
        base = f"ws://127.0.0.1:{port}"
        with pytest.raises(InvalidStatus):
            await connect(f"{base}/nowhere?token={SECRET}")
        async with connect(f"{base}/faulty?token={SECRET}") as socket:
            await socket.send(json.dumps({"token": SECRET}))
            await asyncio.wait_for(socket.wait_closed(), patient(10))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), patient(10)) == 0
    text = (tmp_path / "stdout").read_text()
    assert SECRET not in text + (tmp_path / "stderr").read_text()
    lines = checked(text)
    assert {(line["service.name"], line["service.node.name"], line["process.pid"]) for line in lines} == {
        ("trunkline-node", "node-7", process.pid)
    }
    assert of(lines, "node_up")["trunkline.port"] == port
    refused = of(lines, "handshake_refused")
    assert (refused["http.response.status_code"], refused["url.path"]) == (404, "/nowhere")
    assert refused["event.outcome"] == "failure"
    ended = of(lines, "connection")
    assert ended["event.dataset"] == "trunkline.access"
    assert ended["event.type"] == ["connection", "end"]
    assert (ended["client.ip"], ended["url.path"]) == ("127.0.0.1", "/faulty")
    assert ended["client.bytes"] > 0
    assert 0 <= ended["event.duration"] < 60e9
    failed = of(lines, "handler_failed")
    assert (failed["log.level"], failed["error.type"]) == ("error", "LookupError")
    assert failed["error.message"] == "no nats://***@bus"
    assert failed["error.stack_trace"].startswith("Traceback")
    [foreign] = [line for line in lines if line["log.logger"] == "library"]
    assert (foreign["message"], foreign["labels.token"]) == ("password=*** for /faulty", "***")
    assert "event.action" not in foreign

    files = {path.name: path.read_text() for path in (tmp_path / "logs").glob("*.log")}
    # A library's event gets its time in each handler.
    untimed = [[line | {"@timestamp": ""} for line in some] for some in (checked(files["trunkline.log"]), lines)]
    assert untimed[0] == untimed[1]
    assert [line["event.action"] for line in checked(files["trunkline.error.log"])] == ["handler_failed"]


async def test_lines_of_a_real_relay(tmp_path: Path) -> None:
    """A balancer's lines of connections fit too, and name the backend that could not be reached."""
    port, nobody, admin = free_port(), free_port(), free_port()
    async with running(
        tmp_path, "balance", "--listen", f"127.0.0.1:{port}", "--backend", f"http://127.0.0.1:{nobody}",
        ready=f"http://127.0.0.1:{admin}/healthz",
        TRUNKLINE_BALANCER_ADMIN_PORT=str(admin), TRUNKLINE_LOG_FORMAT="ecs", TRUNKLINE_BALANCER_DRAIN_MS="0",
    ) as process:  # fmt: skip
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{port}/ws?token={SECRET}")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), patient(10)) == 0
    text = (tmp_path / "stdout").read_text()
    assert SECRET not in text
    lines = checked(text)
    assert {line["service.name"] for line in lines} == {"trunkline-balancer"}
    refused = of(lines, "connection_refused")
    assert refused["event.type"] == ["connection", "denied"]
    assert refused["client.ip"] == "127.0.0.1"
    assert refused["http.response.status_code"] >= 500


def test_one_name_never_has_two_types(configured: io.StringIO) -> None:
    """What is text in one event and a number, a list or nothing in another goes to different names."""
    logger = structlog.get_logger("shop")
    for value in ("a", 3, 2.5, True, None, ["x", {"y": 1}], {"y": 2}, float("nan"), 1 << 70, b"\xff", "\ud800ü"):
        logger.info("sold", item=value, status=value, duration_s=value, path=value, error=value)
    lines = checked(configured.getvalue())
    assert len(lines) == 11
    assert configured.getvalue().isascii()
    assert lines[0]["labels.item"] == "a"
    assert lines[1]["trunkline.item"] == 3
    assert lines[3]["labels.item"] == "true"
    assert json.loads(lines[5]["labels.item"]) == ["x", {"y": 1}]


def test_keys_have_no_dots(configured: io.StringIO) -> None:
    """A dotted key of an application would be an object beside a text of the same name."""
    structlog.get_logger("shop").info("sold", **{"item": "a", "item.kind": "b", "log.level": "c"})
    [line] = checked(configured.getvalue())
    assert (line["labels.item"], line["labels.item_kind"], line["log.level"]) == ("a", "b", "info")


def test_an_address_is_the_clients_or_a_servers(configured: io.StringIO) -> None:
    """In lines of connections it is a client's; in all others it is what we connect to."""
    structlog.get_logger("trunkline.http").info("handshake_refused", address="::1", status=403, path="/a", reason="x")
    structlog.get_logger("trunkline.bus").warning("nats lost", address="10.0.0.9:4222", why="closed")
    client, server = checked(configured.getvalue())
    assert client["client.ip"] == "::1"
    assert server["server.address"] == "10.0.0.9:4222"
    assert (server["event.action"], server["message"]) == ("nats_lost", "nats lost")
    assert server["event.reason"] == "closed"


def test_a_fleet_shows_what_is_serious_in_these_lines_too(configured: io.StringIO) -> None:
    """`trunkline up` picks warnings and errors out of lines of its nodes in this format as in the other."""
    logger = structlog.get_logger("trunkline.node")
    logger.info("node_up")
    try:
        raise KeyError(3)
    except KeyError:
        logger.exception("boom")
    assert [serious(line, False) for line in configured.getvalue().splitlines()] == [None, "error boom: KeyError: 3"]
