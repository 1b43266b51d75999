"""The question before a deploy begins: asked where no loop waits for it, and ended by Ctrl-C with nothing begun."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import typer

from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode, PretendWorld
from trunkline.bus.store.memory import MemoryStore
from trunkline.cli.deploy import fleet
from trunkline.cli.deploy.driving import Target, ask
from trunkline.protocol.deploys import DEPLOY_KEY, DeployStatus
from trunkline.settings.load import load


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Of a fleet with 30 clients on blue."""
    found = MemoryStore()
    world = PretendWorld(PretendFleet(PretendNode("blue-1", "blue", 30)))

    @contextlib.asynccontextmanager
    async def connected(_reached: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(store=found, world=world)

    monkeypatch.setattr(fleet, "connected", connected)
    return found


def asked(answer: bool | None, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Exit code, 0 to go on, and the questions; None is Ctrl-C."""
    questions: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        assert err
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        questions.append(question)
        if answer is None:
            raise typer.Abort
        return answer

    monkeypatch.setattr(typer, "confirm", confirm)
    target = Target(load(None, {}, {}), (), None, None, None, insecure=False, local=False)
    try:
        ask(target, "green", "60s")
    except typer.Exit as ended:
        return ended.exit_code, questions
    return 0, questions


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 6), (None, 130)], ids=["yes", "no", "ctrl-c"])
def test_how_it_may_be_answered(
    answer: bool | None, code: int, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the clients; no loop runs meanwhile, which would miss an interrupt and the fleet's heartbeats."""
    monkeypatch.chdir(tmp_path)
    assert asked(answer, monkeypatch) == (code, ["Move 30 clients to green within 60s or more?"])


def test_a_deploy_that_is_there_is_said_before(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked in vain."""
    monkeypatch.chdir(tmp_path)
    status = DeployStatus("d1", "moving", "blue", "green", "ann", "h", 3, "T0", "T1")
    asyncio.run(store.put(DEPLOY_KEY, msgspec.json.encode(status), None))
    assert asked(True, monkeypatch) == (5, [])
