"""A real NATS with the users of deploy/nats/nats.conf, and the bus settings of each."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Final

from tests.support.balancer.talking import Scene
from trunkline.fleet.children.nats_server import NatsServer, find_binary
from trunkline.process.lifecycle import Child
from trunkline.settings.sections import BusSettings

TEMPLATE: Final = Path(__file__).parents[3] / "deploy" / "nats"
PASSWORDS: Final = TEMPLATE / "passwords.conf.example"
USERS: Final = ("node", "balancer", "deploy", "console", "publisher", "load", "agent", "keeper")
_LISTENING: Final = re.compile(rb"Listening for client connections on \S+:(\d+)")


def password(user: str) -> str:
    """Of a user of the template."""
    return f"the password of {user}".replace(" ", "-")


class RestrictedNats:
    """The server; made by `start`."""

    def __init__(self) -> None:
        self.port = 0
        self.printed = b""
        self._child: Child | None = None

    @classmethod
    async def start(cls, folder: Path) -> RestrictedNats:
        """Start it on a free port, with the passwords that the example asks for."""
        text = (TEMPLATE / "nats.conf").read_text()
        folder.mkdir(parents=True)
        text = text.replace("port: 4222", 'host: "127.0.0.1", port: -1').replace('"/data"', f'"{folder / "data"}"')
        (folder / "nats.conf").write_text(re.sub(r"(?m)^http: .*$", "", text))
        given = re.sub(
            r'(\w+)_PASSWORD: "…"', lambda m: f'{m[0][:-3]}"{password(m[1].lower())}"', PASSWORDS.read_text()
        )
        (folder / "passwords.conf").write_text(given)
        server = cls()
        ready = asyncio.get_running_loop().create_future()

        def printed(data: bytes, _is_error: bool) -> None:
            server.printed += data
            found = _LISTENING.search(server.printed)
            if found is not None and not ready.done():
                server.port = int(found[1])
                ready.set_result(None)

        command = [str(find_binary()), "--config", str(folder / "nats.conf")]
        server._child = await Child.start(command, os.environ, printed, dies_by=signal.SIGTERM)
        ended = asyncio.create_task(server._child.wait())
        await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        assert ready.done(), server.printed.decode()
        return server

    def bus(self, user: str) -> BusSettings:
        """The settings of a part that logs in as one of the users."""
        url = f"nats://{user}:{password(user)}@127.0.0.1:{self.port}"
        return BusSettings(url=url, prefix="trunkline", max_bytes=16 << 20)

    async def stop(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.terminate()
            await self._child.wait()


class RestrictedScene(Scene):
    """Nodes, balancers and deploys of one fleet, each with its own user."""

    def __init__(self, server: RestrictedNats) -> None:
        super().__init__(NatsServer(-1, "127.0.0.1", Path(), None))
        self._restricted = server
        self.bus = server.bus("node")

    def bus_of(self, part: str) -> BusSettings:
        """With the user of this part."""
        return self._restricted.bus(part)
