"""How a deploy finds its fleet."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.balancer.talking import Scene
from tests.support.deploy.scripted_balancer import ScriptedBalancer
from trunkline.deploy.world.base import FleetRefused
from trunkline.deploy.world.reach import admin_address, fleet_of
from trunkline.errors import BusUnavailable, SettingsError, StartError
from trunkline.settings.admin import AdminSettings
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.secret import Secret
from trunkline.settings.sections import Settings

TRAFFIC = '{"generation":1,"weights":{"blue":100},"held":[],"balancers":[]}'


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({}, "http://127.0.0.1:8081"),
        ({"port": 80, "admin_port": 9000}, "http://127.0.0.1:9000"),
        ({"admin_host": "0.0.0.0"}, "http://127.0.0.1:8081"),
        ({"admin_host": "::"}, "http://[::1]:8081"),
        ({"admin_host": "10.0.0.5"}, "http://10.0.0.5:8081"),
    ],
)
def test_the_settings_say_where_a_balancer_is(changes: dict[str, object], address: str) -> None:
    """Beside its port by default; an address that means all is reached on loopback."""
    assert admin_address(msgspec.structs.replace(BalancerSettings(), **changes)) == address


async def test_a_fleet_is_reached_and_let_go(scene: Scene, tmp_path: Path) -> None:
    """Its store and its balancer answer, with the token of the settings or of their file; afterwards nothing does."""
    balancer = await ScriptedBalancer().start()
    balancer.answers["GET", "/api/traffic"] = (200, TRAFFIC)
    balancer.answers["GET", "/counts"] = (200, '{"services":[]}')
    settings = Settings(
        bus=scene.bus, balancer=BalancerSettings(admin_port=balancer.port, balancer_metric_path="/counts")
    )
    (tmp_path / "token").write_text("from-the-file-of-ours\n")
    for admin, token in (
        (AdminSettings(token=Secret("from-the-settings")), "Bearer from-the-settings"),
        (AdminSettings(token_file=tmp_path / "token"), "Bearer from-the-file-of-ours"),
        (AdminSettings(), None),
    ):
        async with fleet_of(msgspec.structs.replace(settings, admin=admin)) as fleet:
            assert (await fleet.world.look()).traffic.weights == {"blue": 100}
            await fleet.store.put("a", b"1", None)
        assert balancer.heard[-1][3] == token
    with pytest.raises(BusUnavailable):
        await fleet.store.get("a")
    async with fleet_of(settings, [balancer.url], token="given", world=False) as fleet:
        assert await fleet.store.get("a") is not None
        await fleet.world.look()
        assert balancer.heard[-1][3] == "Bearer given"
    await balancer.stop()


async def test_what_cannot_be_reached_is_named(scene: Scene, tmp_path: Path) -> None:
    """A fleet without NATS, a balancer without an admin port, and files that cannot be read."""
    scene_settings = Settings(bus=scene.bus)
    for settings, error, text in (
        (Settings(), FleetRefused, "memory"),
        (Settings(bus=scene.bus, balancer=BalancerSettings(admin_port=0)), SettingsError, "balancer.admin_port"),
        (Settings(bus=scene.bus, balancer=BalancerSettings(tls_ca_file=tmp_path / "no")), SettingsError, "tls_ca_file"),
        (Settings(bus=scene.bus, admin=AdminSettings(token_file=tmp_path / "no")), StartError, "token_file"),
    ):
        with pytest.raises(error, match=text):
            async with fleet_of(settings):
                pass
    await scene.kill_nats()
    async with fleet_of(scene_settings, world=False) as fleet:
        with pytest.raises(BusUnavailable):
            await fleet.store.get("a")
