"""Reloads: what is taken over, what takes a restart, and that a reload is whole or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from trunkline.errors import SettingsError, StartError
from trunkline.settings.channels import ChannelRule, ChannelsSettings
from trunkline.settings.reading.source import variables
from trunkline.settings.reload import Outcome, Reload, TakeOver
from trunkline.settings.reloaded import BALANCER, NODE, RELOADED, STEERING, ReloadRecord, change
from trunkline.settings.sections import SECTIONS, Settings


def with_values(settings: Settings, **values: Any) -> Settings:
    """`server__port=1` changes `port` of section `server`."""
    for key, value in values.items():
        section, _, name = key.partition("__")
        changed = msgspec.structs.replace(getattr(settings, section), **{name: value})
        settings = msgspec.structs.replace(settings, **{section: changed})
    return settings


def test_every_row_is_a_setting_that_somebody_reads() -> None:
    """The table names no setting that is not there, and none that no process reloads."""
    assert RELOADED.keys() <= variables(SECTIONS, {}).keys()
    assert {key.partition(".")[0] for key in RELOADED} <= {*NODE, *STEERING}
    assert set(BALANCER) < set(STEERING)


def test_what_can_be_is_taken_over_and_the_rest_is_named() -> None:
    """A setting that takes a restart keeps its value; so it is named by every later reload too."""
    running = Settings()
    wanted = with_values(
        running, server__origins=("https://a.example",), server__port=9, limits__rate_per_s=1.0, bus__url="nats://a:1"
    )
    found = change(running, wanted, NODE)
    assert found.taken == ("server.origins", "limits.rate_per_s")
    assert found.restart == ("server.port", "bus.url")
    assert found.settings == with_values(running, server__origins=("https://a.example",), limits__rate_per_s=1.0)
    again = change(found.settings, wanted, NODE)
    assert (again.taken, again.restart) == ((), ("server.port", "bus.url"))
    assert again.settings == found.settings


def test_sections_of_other_processes_are_no_news() -> None:
    """One file serves a whole fleet: a balancer does not complain of a node's port."""
    wanted = with_values(Settings(), server__port=9, up__nodes=5)
    assert change(Settings(), wanted, BALANCER) == (Settings(), (), ())


@pytest.mark.parametrize(
    ("sections", "key"),
    [(NODE, "bus__prefix"), (BALANCER, "kubernetes__namespace"), (STEERING, "traefik__host")],
)
def test_what_takes_a_restart_is_named_of_every_section_that_is_read(sections: tuple[str, ...], key: str) -> None:
    """The balancer's way to a Kubernetes API server too."""
    found = change(Settings(), with_values(Settings(), **{key: "other"}), sections)
    assert found.restart == (key.replace("__", "."),)


RULE = ChannelRule("shop.**", subscribe="anyone", history=5)


@pytest.mark.parametrize(
    ("rules", "taken"),
    [
        pytest.param((msgspec.structs.replace(RULE, subscribe="nobody", publish="role=admin"),), True, id="who may"),
        pytest.param((msgspec.structs.replace(RULE, history=6),), False, id="what is kept"),
        pytest.param((msgspec.structs.replace(RULE, history_age_s=6.0),), False, id="how long it is kept"),
        pytest.param((RULE, ChannelRule("other.**")), False, id="another pattern"),
    ],
)
def test_channel_rules_reload_when_what_is_kept_stays(rules: tuple[ChannelRule, ...], taken: bool) -> None:
    """What a bus keeps is decided when it is opened."""
    running = Settings(channels=ChannelsSettings(rules=(RULE,)))
    found = change(running, with_values(running, channels__rules=rules), NODE)
    assert (found.taken, found.restart) == ((("channels.rules",), ()) if taken else ((), ("channels.rules",)))


class Process:
    """A process with settings that are read and parts that are prepared."""

    def __init__(self, **running: Any) -> None:
        self.running = with_values(Settings(), **running)
        self.wanted: Settings | Exception = self.running
        self.fault: Exception | None = None
        self.taken: list[Settings] = []
        self.record = ReloadRecord(0.0)
        self.reload = Reload(self.running, self.read, NODE, self.prepare, self.record)

    def read(self) -> Settings:
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted

    async def prepare(self, settings: Settings) -> TakeOver:
        if self.fault is not None:
            raise self.fault
        return lambda: self.taken.append(settings)


async def test_a_reload_is_recorded_and_logged() -> None:
    """Names, never values: among them are secrets."""
    process = Process()
    process.wanted = with_values(process.running, limits__rate_per_s=2.0, server__port=9, admin__port=7)
    with capture_logs() as said:
        outcome = await process.reload()
    assert outcome == Outcome(taken=("limits.rate_per_s",), restart=("server.port", "admin.port"))
    assert [settings.limits.rate_per_s for settings in process.taken] == [2.0]
    assert process.taken[0].server.port == process.running.server.port
    assert process.record.succeeded
    assert process.record.succeeded_at > 0
    assert [(line["event"], line["log_level"]) for line in said] == [
        ("settings_reloaded", "info"), ("settings_need_restart", "warning"),
    ]  # fmt: skip
    assert said[0]["changed"] == ("limits.rate_per_s",)
    assert said[1]["text"] == "server.port: restart, admin.port: restart"


async def test_files_are_read_again_though_no_setting_changed() -> None:
    """The parts are prepared: what the files hold may be new."""
    process = Process()
    assert await process.reload() == Outcome()
    assert process.taken == [process.running]


def bad_file(process: Process) -> None:
    process.wanted = SettingsError("server.prt", allowed="there is no such setting")


def bad_key(process: Process) -> None:
    process.wanted = with_values(process.running, limits__rate_per_s=2.0)
    process.fault = SettingsError("auth.secret_file", allowed="the file cannot be read")


def bad_token(process: Process) -> None:
    process.wanted = with_values(process.running, limits__rate_per_s=2.0)
    process.fault = StartError("the admin token file is empty", "Write one")


def bug(process: Process) -> None:
    process.wanted = with_values(process.running, limits__rate_per_s=2.0)
    process.fault = ZeroDivisionError()


def bad_together(process: Process) -> None:
    """Sound in the file, and not with what stays until a restart."""
    process.wanted = with_values(process.running, auth__required=True)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (bad_file, "server.prt"),
        (bad_key, "auth.secret_file"),
        (bad_token, "admin token file"),
        (bug, "ZeroDivisionError"),
        (bad_together, "auth.required"),
    ],
)
async def test_what_cannot_be_used_changes_nothing(spoil: Callable[[Process], None], why: str) -> None:
    """All settings stay, the log says why, and a later reload that is sound counts."""
    process = Process()
    spoil(process)
    with capture_logs() as said:
        outcome = await process.reload()
    assert why in outcome.refused
    assert (outcome.taken, process.taken) == ((), [])
    assert not process.record.succeeded
    assert process.record.succeeded_at == 0.0
    refused = next(line for line in said if line["event"] == "settings_reload_refused")
    assert refused["log_level"] == "error"
    assert why in refused["text"]
    process.wanted, process.fault = with_values(process.running, limits__rate_per_s=2.0), None
    assert (await process.reload()).taken == ("limits.rate_per_s",)
    assert process.record.succeeded


async def test_reloads_come_one_after_the_other() -> None:
    """The second sees what the first has taken over."""
    process = Process()
    process.wanted = with_values(process.running, limits__rate_per_s=2.0)
    first, second = await asyncio.gather(process.reload(), process.reload())
    assert (first.taken, second.taken) == (("limits.rate_per_s",), ())
