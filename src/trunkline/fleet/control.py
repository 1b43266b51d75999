"""What a running fleet answers at its control socket (`process/control/messages.py`)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trunkline.errors import StartError
from trunkline.fleet.children.nats import FleetNats
from trunkline.fleet.nodes import FleetNode, FleetNodes
from trunkline.fleet.plan.layout import FleetPlan
from trunkline.process.control.messages import (
    ControlAnswer,
    ControlRequest,
    EnsureNodes,
    FindApp,
    Finding,
    FindPlaces,
    ListNodes,
    LogLines,
    NodeLog,
    NodeProcess,
    Nodes,
    Places,
    Refusal,
    RemoveNodes,
)
from trunkline.process.control.socket import ControlSocket
from trunkline.process.lifecycle import Child

FIND_S: Final = 20.0
LOG_BYTES: Final = 256 * 1024

_FIND: Final = """
import importlib.util, sys
if importlib.util.find_spec("trunkline") is None:
    sys.exit("trunkline is not installed there")
module, colon, attribute = sys.argv[1].partition(":")
if not module or not attribute:
    sys.exit("it is written as module:attribute, for example chat:app")
try:
    found = importlib.util.find_spec(module) is not None
except ModuleNotFoundError:
    found = False
except Exception:
    found = True  # a package that cannot be imported is there; its nodes report why
if not found:
    sys.exit(f"there is no module {module!r}")
"""


def control_socket(plan: FleetPlan, nodes: FleetNodes, nats: FleetNats, environ: Mapping[str, str]) -> ControlSocket:
    """The socket of a fleet, not listening yet, in its data directory."""
    return ControlSocket(plan.data_dir, _Desk(plan, nodes, nats, environ).answer)


class _Desk:
    def __init__(self, plan: FleetPlan, nodes: FleetNodes, nats: FleetNats, environ: Mapping[str, str]) -> None:
        self._plan = plan
        self._nodes = nodes
        self._nats = nats
        self._environ = environ

    async def answer(self, request: ControlRequest) -> ControlAnswer:
        nodes = self._nodes
        match request:
            case FindPlaces():
                return self._places()
            case FindApp():
                return Finding(await self._why_not(request.app, request.python))
            case ListNodes():
                return _listed(nodes.of(request.colour))
            case EnsureNodes():
                try:
                    await nodes.ensure(request)
                except StartError as error:
                    return Refusal(error.what, error.next_step)
                return _listed(nodes.of(request.colour))
            case RemoveNodes():
                await nodes.remove(request.colour)
                return _listed(nodes.of(request.colour))
            case NodeLog():
                if request.name not in nodes.names:
                    return Refusal(f"there was never a node {request.name!r} in this fleet")
                path = self._plan.log_path(request.name)
                return LogLines(await asyncio.to_thread(_last_lines, path, request.lines))

    def _places(self) -> Places:
        plan = self._plan
        return Places(
            bus=self._nats.url,
            balancer=plan.balancer.admin_url,
            edge=plan.edge.websocket_url,
            edge_kind="relay" if plan.traefik is None else "traefik",
            alertmanager=plan.monitor.alertmanager if plan.monitor is not None else "",
        )

    async def _why_not(self, app: str, python: str) -> str:
        """Why nodes would not find an application, looked for by the interpreter that would run it."""
        program = python or sys.executable
        wanted = app or self._plan.app or "trunkline:App"
        errors = bytearray()
        command = [program, "-c", _FIND, wanted]
        try:
            child = await Child.start(command, self._environ, lambda chunk, _: errors.extend(chunk))
        except OSError as error:
            return f"{program} cannot be run: {error.strerror or error}"
        try:
            async with asyncio.timeout(FIND_S):
                code = await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
            return f"{program} did not answer within {FIND_S:g} s"
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"{wanted}: {last or f'{program} ended with {code}'}" if code else ""


def _listed(nodes: list[FleetNode]) -> Nodes:
    return Nodes(
        tuple(
            NodeProcess(
                name=node.node.name,
                colour=node.node.colour,
                state=node.status.state,
                pid=node.pid,
                url=node.node.page_url,
                admin_url=node.node.admin_url,
                failures=node.failures,
                why=node.why,
            )
            for node in nodes
        )
    )


def _last_lines(path: Path, lines: int) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - LOG_BYTES, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-lines:])
