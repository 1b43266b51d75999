"""The application: endpoints, hooks, and what server-side code may do. This is the public Python API.

An endpoint is a class with `on_connect`, `on_message` and `on_disconnect` (the fast path when they are plain functions)
or an async function that iterates over its client. Both see the same `Client`.

    app = App()

    @app.websocket("/rooms/{room}", message=Line)
    class Room(Endpoint):
        async def on_connect(self, client):
            await client.join(f"room.{client.params['room']}")

        async def on_message(self, client, message):
            await client.publish(f"room.{client.params['room']}", {"text": message.text})
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from trunkline.bus.base import Publication
from trunkline.logs.logger import get_logger
from trunkline.protocol import wire
from trunkline.server.app.declaration import Declaration
from trunkline.server.app.endpoint import Endpoint, EndpointFunction, Limits
from trunkline.server.channels.hub import Hub
from trunkline.server.connections.tasks import FAULTS, Tasks, ends_this_task
from trunkline.settings.channels import ChannelRule

if TYPE_CHECKING:
    from trunkline.settings.sections import Settings

log = get_logger("trunkline.app")

Hook: TypeAlias = Callable[[], Awaitable[None] | None]
H = TypeVar("H", bound=Hook)
T = TypeVar("T")
E = TypeVar("E", bound=type[Endpoint] | Endpoint | EndpointFunction)


class App:
    """A set of endpoints with the hooks around them; `/api/instance` shows its `name`.

    Attributes:
        page: file of the node's test page: one that lists the endpoints.
    """

    def __init__(self, name: str = "app") -> None:
        self.name = name
        self.page = "endpoints.html"
        self.declarations: list[Declaration] = []
        self.rules: list[ChannelRule] = []
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._periodic: list[tuple[float, Hook]] = []
        self._tasks = Tasks("background_task_failed")
        self._hub: Hub | None = None
        self._settings: Settings | None = None

    def websocket(
        self,
        path: str,
        *,
        message: object = None,
        channels: bool = False,
        envelope: bool = True,
        limits: Limits | None = None,
        setting: str | None = None,
    ) -> Callable[[E], E]:
        """Declare an endpoint; decorate an `Endpoint` class (or pass an instance) or an async function with it.

        Args:
            path: starts with `/`; `{name}` stands for one segment and becomes `client.params["name"]`.
            message: what clients send: a msgspec struct with a tag in `type` (or a union of them); `msgspec.Raw` for
                any JSON; None for text and bytes as they come on an endpoint without envelope.
            channels: whether clients may subscribe, publish and replay by themselves, as channel rules allow.
            envelope: whether the server speaks its own messages here (`connection_established`, `heartbeat`, `error`,
                `goodbye`). Without it, the endpoint's messages are all there is.
            limits: this endpoint's own limits; None fields fall back to the settings.
            setting: name of a boolean server setting that switches the endpoint off.
        """

        def declare(target: E) -> E:
            handler: Endpoint | EndpointFunction
            if isinstance(target, Endpoint):
                handler = target
            elif isinstance(target, type) and issubclass(target, Endpoint):
                handler = target()
            elif asyncio.iscoroutinefunction(target):
                handler = target
            else:
                raise TypeError(f"an endpoint is a subclass of Endpoint or an async function, not {target!r}")
            self.declarations.append(
                Declaration(path, handler, message, channels, envelope, limits or Limits(), setting)
            )
            return target

        return declare

    def channels(
        self,
        pattern: str,
        *,
        subscribe: str | tuple[str, ...] = "nobody",
        publish: str | tuple[str, ...] = "nobody",
        history: int | None = None,
        history_age_s: float | None = None,
    ) -> None:
        """Set who may use channels and what is kept of them; the operator's own rules go before these.

        Args:
            pattern: tokens joined by dots; `*` is any one token, `**` at the end the rest, `{claim}` a claim of the
                token.
            subscribe: `"anyone"`, `"authenticated"`, `"nobody"`, or claims such as `"role=admin"`, any one enough.
            publish: the same, for clients; server-side code always may.
            history: publications kept; 0: fire and forget.
            history_age_s: seconds they are kept.
        """
        self.rules.append(ChannelRule(pattern, subscribe, publish, history, history_age_s))

    def on_startup(self, hook: H) -> H:
        """Run `hook` before the first client is let in; an exception stops the start."""
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Run `hook` after the last client has gone."""
        self._shutdown.append(hook)
        return hook

    def every(self, seconds: float) -> Callable[[H], H]:
        """Run a function again and again while the node runs, `seconds` after it last ended."""

        def declare(hook: H) -> H:
            self._periodic.append((seconds, hook))
            return hook

        return declare

    async def publish(self, channel: str, data: object) -> wire.Position | None:
        """Put a message into a channel from server-side code; `data` is anything msgspec can encode as JSON.

        Returns its position, None for a channel without history; raises BusUnavailable when the bus did not acknowledge
        it.
        """
        return await self._running.publish(channel, msgspec.json.encode(data))

    async def listen(self, channel: str, listener: Callable[[Publication], None]) -> None:
        """Call `listener` with each publication of a channel, on this node; raises BusUnavailable."""
        await self._running.listen(channel, listener)

    def unlisten(self, channel: str, listener: Callable[[Publication], None]) -> None:
        """End what `listen` began."""
        self._running.unlisten(channel, listener)

    @property
    def settings(self) -> Settings:
        """The settings of the node that runs the app."""
        if self._settings is None:
            raise RuntimeError("the app is not running yet; settings are known from its start-up hooks on")
        return self._settings

    def spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run `work` in the background; what it raises is logged, and it is cancelled when the node stops.

        Returns its task, which may be awaited or cancelled, and need not be kept.
        """
        return self._tasks.spawn(work)

    @property
    def _running(self) -> Hub:
        if self._hub is None:
            raise RuntimeError("the app is not running yet; use it from a hook or an endpoint")
        return self._hub

    async def start(self, hub: Hub, settings: Settings) -> None:
        """Bind the app to a node and run its start-up hooks."""
        self._hub = hub
        self._settings = settings
        for hook in self._startup:
            await _call(hook)
        for seconds, hook in self._periodic:
            self.spawn(_repeat(seconds, hook))

    async def stop(self) -> None:
        """Run the shutdown hooks and end background work."""
        for hook in self._shutdown:
            try:
                await _call(hook)
            except FAULTS as error:
                if ends_this_task(error):
                    raise
                log.error("shutdown_hook_failed", exc_info=error)
        await self._tasks.close()
        self._hub = None


async def _call(hook: Hook) -> None:
    result = hook()
    if result is not None:
        await result


async def _repeat(seconds: float, hook: Hook) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await _call(hook)
        except FAULTS as error:
            if ends_this_task(error):
                raise
            log.error("periodic_hook_failed", exc_info=error)
