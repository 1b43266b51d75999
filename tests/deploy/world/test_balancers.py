"""Asking balancers over HTTP: which one, with which token, and what their answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.support.deploy.scripted_balancer import ScriptedBalancer
from tests.support.free_ports import free_port
from tests.support.server.bus_probe import until
from trunkline.deploy.world import balancers as module
from trunkline.deploy.world.balancers import Balancers
from trunkline.deploy.world.base import FleetRefused, FleetUnreachable
from trunkline.errors import SettingsError
from trunkline.net.admin.tokens import AdminTokens
from trunkline.protocol.traffic import TrafficOrder

TRAFFIC = ("GET", "/api/traffic")
PUT = ("PUT", "/api/traffic")
TABLE = json.dumps({"generation": 3, "weights": {"blue": 100}, "held": ["green"], "balancers": [], "news": 1})
ORDER = TrafficOrder(3, {"green": 100.0}, "ann")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ScriptedBalancer, ScriptedBalancer]]:
    """Two balancers with the same table."""
    first, second = await ScriptedBalancer().start(), await ScriptedBalancer().start()
    first.answers[TRAFFIC] = second.answers[TRAFFIC] = (200, TABLE)
    yield first, second
    await first.stop()
    await second.stop()


async def test_any_balancer_answers_and_the_last_one_that_did_is_asked_first(
    pair: tuple[ScriptedBalancer, ScriptedBalancer],
) -> None:
    """When one cannot be reached the next is asked, and stays the first; when none can, all are named."""
    first, second = pair
    balancers = Balancers([first.url, second.url], "secret")
    assert (await balancers.traffic()).generation == 3
    await first.stop()
    assert (await balancers.traffic()).held == ("green",)
    await first.start()
    await balancers.traffic()
    assert (len(first.heard), len(second.heard)) == (1, 2)
    assert {token for *_, token in first.heard + second.heard} == {"Bearer secret"}
    await first.stop()
    await second.stop()
    with pytest.raises(FleetUnreachable, match=f"{first.port}.*|{second.port}"):
        await balancers.traffic()
    await balancers.close()


async def test_what_the_answer_to_a_write_means(pair: tuple[ScriptedBalancer, ScriptedBalancer]) -> None:
    """The new table, another generation, or a refusal with the balancer's words."""
    first, _ = pair
    balancers = Balancers([first.url], "secret")
    first.answers[PUT] = (200, TABLE)
    state = await balancers.put_traffic(ORDER)
    assert state is not None
    assert json.loads(first.heard[-1][2]) == {
        "expect": 3, "weights": {"green": 100.0}, "changed_by": "ann", "force": False,
    }  # fmt: skip
    first.answers[PUT] = (409, "generation 4 is there")
    assert await balancers.put_traffic(ORDER) is None
    for status, words in ((422, "green has no\nready backend"), (401, "token"), (404, "Not Found")):
        first.answers[PUT] = (status, words)
        with pytest.raises(FleetRefused, match=str(status)) as caught:
            await balancers.put_traffic(ORDER)
        assert "\n" not in str(caught.value)
    first.answers[PUT] = (503, "the store cannot be reached")
    with pytest.raises(FleetUnreachable, match="store cannot be reached"):
        await balancers.put_traffic(ORDER)
    first.answers[TRAFFIC] = (200, "<html>")
    with pytest.raises(FleetRefused, match="another release"):
        await balancers.traffic()
    await balancers.close()


async def test_a_balancer_that_cannot_do_it_now_is_asked_last(
    pair: tuple[ScriptedBalancer, ScriptedBalancer],
) -> None:
    """One that is cut off from the store alone fails one write, and not the next; a reading asks the other at once."""
    first, second = pair
    balancers = Balancers([first.url, second.url], "secret")
    first.answers[PUT], second.answers[PUT] = (503, "the store cannot be reached"), (200, TABLE)
    with pytest.raises(FleetUnreachable, match="store cannot be reached"):
        await balancers.put_traffic(ORDER)
    assert await balancers.put_traffic(ORDER) is not None
    second.answers[TRAFFIC] = (503, "it is being stopped")
    assert (await balancers.traffic()).generation == 3
    assert len(first.heard) == len(second.heard) == 2
    await balancers.close()


@pytest.mark.parametrize(
    "address",
    ["10.0.0.5:8081", "ws://10.0.0.5:8081", "http://", "http://[::1", "http://h:99999", "http://u:secret@h:1"],
)
def test_an_address_that_is_none_is_named_at_once(address: str) -> None:
    """With what is allowed, and without a password."""
    with pytest.raises(SettingsError, match=r"http://10\.0\.0\.5:8081") as caught:
        Balancers([address])
    assert "secret" not in str(caught.value)


async def test_an_answer_may_come_in_pieces(pair: tuple[ScriptedBalancer, ScriptedBalancer]) -> None:
    """A list of many backends is longer than what a socket has at once."""
    first, _ = pair
    balancers = Balancers([first.url], "secret")
    backend = {
        "url": "ws://10.0.0.1:8080", "name": "blue-1", "group": "blue", "source": "nats", "state": "up",
        "connections": 3, "capacity": 2000,
    }  # fmt: skip
    first.answers["GET", "/balancer-metrics"] = (200, json.dumps({"services": [backend] * 1000}))
    assert len(await balancers.backends()) == 1000
    await balancers.close()


async def test_a_write_that_may_have_been_carried_out_is_not_sent_again(
    pair: tuple[ScriptedBalancer, ScriptedBalancer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer that dies over a write fails it; one that was not there is passed over. A reading asks the next."""
    first, second = pair
    balancers = Balancers([first.url, second.url], "secret")
    first.answers[PUT], second.answers[PUT] = None, (200, TABLE)
    with pytest.raises(FleetUnreachable, match=str(first.port)):
        await balancers.put_traffic(ORDER)
    assert second.requests("PUT") == []
    first.answers[TRAFFIC] = None
    assert (await balancers.traffic()).generation == 3
    await balancers.close()
    balancers = Balancers([f"http://127.0.0.1:{free_port()}", second.url], "secret")
    assert await balancers.put_traffic(ORDER) is not None
    await balancers.close()
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    balancers = Balancers([f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}", second.url], "secret")
    assert (await balancers.traffic()).generation == 3
    await balancers.close()
    silent.close()


async def test_the_token_that_is_kept_on_this_machine_is_read_each_time(
    pair: tuple[ScriptedBalancer, ScriptedBalancer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer that was started again has another token; without any the request goes without."""
    first, _ = pair
    balancers = Balancers([first.url])
    await balancers.traffic()
    first.answers[TRAFFIC] = (401, '{"error":"unauthorized","message":"the admin token is missing or wrong"}')
    reading = asyncio.create_task(balancers.traffic())
    await until(lambda: len(first.heard) > 1)
    token = AdminTokens(first.port, ())
    token.keep()
    first.answers[TRAFFIC] = (200, TABLE)
    await reading
    assert first.heard[-1][3] == f"Bearer {token.reveal()}"
    token.forget()
    for _ in range(2):
        token = AdminTokens(first.port, ())
        token.keep()
        await balancers.traffic()
        assert first.heard[-1][3] == f"Bearer {token.reveal()}"
        token.forget()
    assert first.heard[0][3] is None
    monkeypatch.setattr(module, "KEEPS_S", 0.01)
    first.answers[TRAFFIC] = (401, '{"error":"unauthorized","message":"the admin token is missing or wrong"}')
    with pytest.raises(FleetRefused, match=r"is missing or wrong; name a token"):
        await balancers.traffic()
    await balancers.close()
