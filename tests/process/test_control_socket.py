"""The control socket, with a real socket at both ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.patience import patient
from trunkline.process.control.messages import (
    CONTROL_SOCKET,
    ControlAnswer,
    ControlRequest,
    ListNodes,
    NodeProcess,
    Nodes,
    Refusal,
    RemoveNodes,
)
from trunkline.process.control.socket import ControlClient, ControlFailed, ControlSocket
from trunkline.process.framing import head

NODES = Nodes((NodeProcess("green-1", "green", "up", 7, "http://h:1", "http://h:2", 1, "why"),))


async def answers(request: ControlRequest) -> ControlAnswer:
    return NODES if isinstance(request, ListNodes) else Refusal("not today", "Ask tomorrow.")


async def test_one_request_one_answer(tmp_path: Path) -> None:
    """The file is this user's alone, and goes at the end; a refusal is an error with its next step."""
    control = ControlSocket(tmp_path, answers)
    control.start()
    assert (tmp_path / CONTROL_SOCKET).stat().st_mode & 0o777 == 0o600
    client = ControlClient(tmp_path)
    assert await client.ask(ListNodes("green"), patient(5)) == NODES
    with pytest.raises(ControlFailed, match=r"not today\. Ask tomorrow\."):
        await client.ask(RemoveNodes("green"), patient(5))
    await control.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ControlFailed, match="no `trunkline up` answers at"):
        await client.ask(ListNodes(), patient(5))


async def test_a_name_left_by_a_killed_process_is_taken(tmp_path: Path) -> None:
    """Nobody listens there, so it is replaced."""
    killed = ControlSocket(tmp_path, answers)
    killed.start()
    assert killed._private is not None
    asyncio.get_running_loop().remove_reader(killed._private.sock)
    killed._private.sock.close()
    control = ControlSocket(tmp_path, answers)
    control.start()
    assert await ControlClient(tmp_path).ask(ListNodes(), patient(5)) == NODES
    await control.close()


async def test_what_is_no_request_is_refused_and_the_connection_stays(tmp_path: Path) -> None:
    """A newer command may ask for what this release does not know; a colour may not lead out of the directory."""
    control = ControlSocket(tmp_path, answers)
    control.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / CONTROL_SOCKET)
    odd = [b'{"kind":"dance"}', b"\xff", b'{"kind":"remove","colour":"../up"}', b'{"kind":"list"}']
    async with asyncio.timeout(patient(5)):
        found = []
        for message in odd:
            writer.write(head(len(message)) + message)
            length = int.from_bytes(await reader.readexactly(4), "big")
            found.append(await reader.readexactly(length))
    assert [b'"kind":"refusal"' in answer for answer in found] == [True, True, True, False]
    writer.write(head(1 << 30))
    assert await reader.read() == b""
    writer.close()
    await control.close()


async def test_what_was_begun_ends_without_its_sender(tmp_path: Path) -> None:
    """A command that is killed while it waits does not leave half a change."""
    began, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(request: ControlRequest) -> ControlAnswer:
        began.set()
        await go_on.wait()
        ended.set()
        return Nodes(())

    control = ControlSocket(tmp_path, slowly)
    control.start()
    with pytest.raises(ControlFailed, match=r"did not answer within 0\.05 s"):
        await ControlClient(tmp_path).ask(RemoveNodes("green"), 0.05)
    async with asyncio.timeout(patient(5)):
        await began.wait()
        go_on.set()
        await ended.wait()
    await control.close()


async def test_an_end_before_the_answer_is_named(tmp_path: Path) -> None:
    """`up` may be stopped meanwhile."""
    began = asyncio.Event()

    async def never(request: ControlRequest) -> ControlAnswer:
        began.set()
        await asyncio.Event().wait()
        return Nodes(())

    control = ControlSocket(tmp_path, never)
    control.start()
    asking = asyncio.create_task(ControlClient(tmp_path).ask(ListNodes(), patient(5)))
    async with asyncio.timeout(patient(5)):
        await began.wait()
    await control.close()
    with pytest.raises(ControlFailed, match="ended before it answered"):
        await asking
