"""`/api/traffic` on the admin port: who may, what is answered, and what picks make of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.balancer.test_admin import settings_with
from tests.support.server.raw_peer import Answer, RawPeer, http
from trunkline.balancer.service import RelayService
from trunkline.balancer.traffic import store as store_module
from trunkline.bus.store.memory import MemoryStore
from trunkline.net.admin.kept import kept_token
from trunkline.net.admin.tokens import read_tokens
from trunkline.placement.placing import Ask, Pick
from trunkline.protocol.traffic import TrafficState, TrafficTable
from trunkline.settings.admin import AdminSettings, ScopedToken
from trunkline.settings.balancer import BackendEntry
from trunkline.settings.secret import Secret
from trunkline.traefik.steer.service import SteeringService

BLUE, GREEN = "http://127.0.0.1:9", "http://127.0.0.1:10"
Service = RelayService | SteeringService


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The store of the balancer under test."""
    made = MemoryStore()
    monkeypatch.setattr(store_module, "MemoryStore", lambda: made)
    return made


def settings_of(**changes: Any) -> Any:
    """Two backends of a colour each, about which nobody asks."""
    backends = (BackendEntry(BLUE, group="blue"), BackendEntry(GREEN, group="green"))
    return settings_with(backends=backends, health="off", report_timeout_ms=50, **changes)


@pytest.fixture(params=["relay", "steer"])
async def service(
    request: pytest.FixtureRequest, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """A balancer of each kind."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kind = RelayService if request.param == "relay" else SteeringService
    found = kind(settings_of(mode=request.param))
    await found.start()
    yield found
    await found.stop()


async def ask(
    port: int,
    method: str = "GET",
    body: bytes = b"",
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request for the table."""
    fields = {"Content-Length": str(len(body)), **(headers or {})}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    peer = await RawPeer.connect(port)
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await peer.send(f"{method} /api/traffic HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode() + body)
        return await peer.answer()
    finally:
        peer.close()


async def put(service: Service, expect: int, force: bool = False, **weights: float) -> Answer:
    """An order with the token."""
    order = {"expect": expect, "weights": weights, "changed_by": "anna", "force": force}
    return await ask(service.admin.port, "PUT", msgspec.json.encode(order), token=kept_token(service.admin.port))


def state(answer: Answer) -> TrafficState:
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body, type=TrafficState)


def picks(service: Service) -> set[str]:
    answers = [service.balancer.place(Ask("")) for _ in range(20)]
    return {answer.url for answer in answers if isinstance(answer, Pick)}


async def test_a_written_table_is_answered_stored_and_obeyed(service: Service, store: MemoryStore) -> None:
    """The answer shows it applied by the balancer that wrote it, and the next pick obeys it."""
    before = state(await ask(service.admin.port))
    assert (before.generation, before.weights, before.held) == (0, {}, ())
    assert picks(service) == {BLUE, GREEN}
    written = state(await put(service, 0, blue=100))
    assert (written.generation, written.weights, written.held) == (1, {"blue": 100.0}, ("green",))
    assert [(peer.id, peer.generation) for peer in written.balancers] == [(service.balancer.id, 1)]
    assert (written.changed_by, written.stored) == ("anna", "memory")
    assert picks(service) == {BLUE}
    assert await store.get("traffic") is not None
    assert state(await put(service, 1, green=100)).generation == 2
    assert picks(service) == {GREEN}
    assert state(await ask(service.admin.port)).held == ("blue",)


async def test_an_order_for_another_generation_changes_nothing(service: Service) -> None:
    """409 names the present one."""
    await put(service, 0, blue=100)
    answer = await put(service, 0, green=100)
    assert (answer.status, b"found 1" in answer.body) == (409, True)
    assert (await put(service, 7, green=100)).status == 409
    assert picks(service) == {BLUE}


async def test_of_two_writers_one_is_refused(service: Service, store: MemoryStore) -> None:
    """Also when the other one wrote between reading and writing."""
    real = store.get

    async def late(key: str) -> Any:
        entry = await real(key)
        await store.put("traffic", b'{"generation":1,"weights":{"green":1},"changed_at":""}', None)
        return entry

    store.get = late  # type: ignore[method-assign]
    assert (await put(service, 0, blue=100)).status == 409
    assert picks(service) == {GREEN}


async def test_a_colour_that_is_not_ready_needs_force(service: Service) -> None:
    """422 names what is ready; with force it is written all the same, and clients are refused."""
    answer = await put(service, 0, red=100)
    assert (answer.status, b"ready are: blue, green" in answer.body) == (422, True)
    assert state(await ask(service.admin.port)).generation == 0
    assert state(await put(service, 0, force=True, red=100)).held == ("blue", "green")
    assert not picks(service)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"weights":{"blue":1}}',
        b'{"expect":0,"weights":{}}',
        b'{"expect":0,"weights":{"blue":101}}',
        b'{"expect":0,"weights":{"blue":-1}}',
        b'{"expect":0,"weights":{"":1}}',
        b'{"expect":-1,"weights":{"blue":1}}',
        b'{"expect":0,"weights":{"blue":1},"weight":3}',
        b'{"expect":0,"weights":{"blue":1e999}}',
        b"\xff\xfe",
    ],
)
async def test_what_is_no_order_is_refused(service: Service, body: bytes) -> None:
    """400, and nothing is written."""
    answer = await ask(service.admin.port, "PUT", body, token=kept_token(service.admin.port))
    assert (answer.status, b'"bad_request"' in answer.body) == (400, True)
    assert state(await ask(service.admin.port)).generation == 0


async def test_a_body_that_is_too_long_is_not_read(service: Service) -> None:
    """Its length is enough to refuse it."""
    answer = await ask(service.admin.port, "PUT", b" " * (2 << 20), token=kept_token(service.admin.port))
    assert answer.status == 413


@pytest.mark.parametrize("token", [True, False])
async def test_a_body_that_breaks_off_is_no_fault_of_ours(
    service: Service, token: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor one that is not what its header says: no traceback is in the log, whoever sends it."""
    given = kept_token(service.admin.port) if token else None
    answer = await ask(service.admin.port, "PUT", b"{}", token=given, headers={"Content-Encoding": "gzip"})
    assert answer.status == (400 if token else 401)
    peer = await RawPeer.connect(service.admin.port)
    credentials = f"Authorization: Bearer {given}\r\n" if given else ""
    await peer.send(
        f"PUT /api/traffic HTTP/1.1\r\nHost: localhost\r\n{credentials}Content-Length: 9\r\n\r\n{{".encode()
    )
    peer.close()
    assert state(await ask(service.admin.port, token=given)).generation == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_write_needs_the_token(service: Service) -> None:
    """Whatever network it comes from; the reader of the page may read."""
    body = b'{"expect":0,"weights":{"blue":1}}'
    for token in (None, "wrong", ""):
        answer = await ask(service.admin.port, "PUT", body, token=token)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), token
    assert state(await ask(service.admin.port)).generation == 0
    assert (await ask(service.admin.port, headers={"X-Forwarded-For": "127.0.0.1"})).status == 401
    for method in ("POST", "DELETE"):
        answer = await ask(service.admin.port, method, token=kept_token(service.admin.port))
        assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD,PUT")


@pytest.mark.parametrize("kind", [RelayService, SteeringService])
async def test_scopes_of_tokens(
    kind: type[Service], store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights need operate; pages need read where the network is not enough; refusals name the scope."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    reader, operator = "the token of a reader", "the token of an operator"
    admin = AdminSettings(
        tokens=(
            ScopedToken("prometheus", ("read",), token=Secret(reader)),
            ScopedToken("ops", ("operate",), token=Secret(operator)),
        )
    )
    service = kind(msgspec.structs.replace(settings_of(mode="relay" if kind is RelayService else "steer"), admin=admin))
    await service.start()
    try:
        port, body = service.admin.port, b'{"expect":0,"weights":{"blue":1}}'
        with capture_logs() as lines:
            refused = await ask(port, "PUT", body, token=reader)
            assert (await ask(port, "PUT", body, token=operator)).status == 200
        assert refused.status == 403
        assert b"PUT /api/traffic needs the scope operate; the token of prometheus has read" in refused.body
        orders = [(line["by"], line["status"], line["path"]) for line in lines if line["event"] == "admin_order"]
        assert orders == [("prometheus", 403, "/api/traffic"), ("ops", 200, "/api/traffic")]
        assert not any(token in str(lines) for token in (reader, operator))
        proxied = {"X-Forwarded-For": "127.0.0.1"}
        assert (await ask(port, headers=proxied, token=reader)).status == 200
        found = await ask(port, headers=proxied, token=operator)
        assert (found.status, b"needs the scope read; the token of ops has operate" in found.body) == (403, True)
        for path in ("/metrics", "/balancer-metrics"):
            given = {**proxied, "Authorization": f"Bearer {operator}"}
            found = await http(port, path, headers=given)
            assert (found.status, b"needs the scope read" in found.body) == (403, True), path
            given["Authorization"] = f"Bearer {reader}"
            assert (await http(port, path, headers=given)).status == 200
        service.admin.replace_tokens(read_tokens(AdminSettings(tokens=admin.tokens[:1])))
        assert (await ask(port, "PUT", body, token=operator)).status == 401
    finally:
        await service.stop()


async def test_the_steering_port_does_not_answer_it(service: Service) -> None:
    """With the token neither."""
    if isinstance(service, SteeringService):
        for method in ("GET", "PUT"):
            answer = await ask(service.port, method, b"{}", token=kept_token(service.admin.port))
            assert answer.status == 404


async def test_a_store_that_cannot_be_reached(service: Service, store: MemoryStore) -> None:
    """503, the last table stays in force; what was written meanwhile is applied afterwards."""
    await put(service, 0, blue=100)
    store.reachable = False
    answer = await put(service, 1, green=100)
    assert (answer.status, b"read it again" in answer.body) == (503, True)
    assert picks(service) == {BLUE}
    assert state(await ask(service.admin.port)).generation == 1
    store.reachable = True
    assert state(await put(service, 1, green=100)).generation == 2


async def test_a_table_that_the_store_has_lost_stays_in_force(service: Service, store: MemoryStore) -> None:
    """A held colour gets nobody because of a fault; the next write puts it back."""
    await put(service, 0, blue=100)
    await put(service, 1, blue=90)
    await store.delete("traffic", None)
    assert picks(service) == {BLUE}
    assert state(await put(service, 2, green=100)).generation == 3
    await store.put("traffic", b'{"generation":"what a later release writes"}', None)
    assert picks(service) == {GREEN}
    answer = await put(service, 3, blue=100)
    assert (answer.status, b"force: true" in answer.body) == (500, True)
    assert state(await put(service, 3, force=True, blue=100)).generation == 4
    assert picks(service) == {BLUE}


async def test_a_start_waits_for_the_store(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment: who is held is known before anybody is placed. Without a store all colours get connections."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    await store.put("traffic", msgspec.json.encode(TrafficTable(7, {"green": 100.0}, "")), 0)
    store.reachable = False
    asyncio.get_running_loop().call_later(0.3, setattr, store, "reachable", True)
    for reachable, wanted in ((True, {GREEN}), (False, {BLUE, GREEN})):
        service = RelayService(settings_of())
        await service.start()
        try:
            assert store.reachable is reachable
            assert picks(service) == wanted
            store.reachable = True
            assert picks(service) == {GREEN}
        finally:
            await service.stop()
        store.reachable = False


async def test_the_page_and_the_series_show_it(service: Service) -> None:
    """What is held, which table, and by whom it was written."""
    await put(service, 0, blue=75, green=25)
    await put(service, 1, blue=100)
    pages = service.admin._pages
    page = pages.render("format=html", "")[1].decode()
    assert "New connections: blue 100; held: green; table 2, written " in page
    assert " by anna, applied by all balancers" in page
    series = pages.render("format=prometheus", "")[1].decode()
    assert 'ws_balancer_traffic_weight{group="blue"} 100' in series
    assert 'ws_balancer_traffic_weight{group="green"} 0' in series
    assert "ws_balancer_traffic_generation 2" in series
    assert 'ws_balancer_peers{state="silent"} 0' in series
    services = msgspec.json.decode(pages.render("format=json", "")[1])["services"]
    assert [(each["group"], each["held"], each["usable"]) for each in services] == [
        ("blue", False, True),
        ("green", True, True),
    ]


async def test_beyond_loopback_reads_need_the_token_too(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reaches the port from another container is not asked for the network it is in."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    service = RelayService(settings_of(admin_host="0.0.0.0"))
    await service.start()
    try:
        assert (await ask(service.admin.port)).status == 401
        assert state(await ask(service.admin.port, token=kept_token(service.admin.port))).generation == 0
    finally:
        await service.stop()
