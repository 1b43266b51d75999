"""The sockets that a balancer listens on: passed by a service manager, taken over from one that runs, or its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final

from trunkline.balancer.hand_over import Offer, TakenOver, take_over
from trunkline.errors import StartError
from trunkline.net.listening import listening_sockets
from trunkline.process.sockets.passed import passed_sockets
from trunkline.settings.balancer import BalancerSettings

ADMIN: Final = "admin"
"""What a socket unit calls the sockets of the admin port; all others are for clients."""

NO_OFFER: Final = (
    "No balancer offers it here: one can be taken over that has the same --listen, user and state directory "
    "(XDG_STATE_HOME), and balancer.hand_over switched on."
)


class Listening:
    """Where one balancer listens.

    Args:
        take_over: take the sockets of a balancer that runs on this address and port.
        on_taken: called when another one has taken them over.

    Attributes:
        clients: sockets for clients.
        admin: sockets that may be those of the admin port.
    """

    def __init__(self, settings: BalancerSettings, *, take_over: bool, on_taken: Callable[[], None]) -> None:
        self._settings = settings
        self._takes_over = take_over
        self._taken: TakenOver | None = None
        self._offer = Offer(on_taken)
        self.clients: list[socket.socket] = []
        self.admin: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return int(self.clients[0].getsockname()[1])

    def open(self) -> None:
        """Get the sockets; raises StartError when they cannot be had."""
        passed = passed_sockets()
        self.admin = passed.pop(ADMIN, [])
        self.clients = [sock for some in passed.values() for sock in some]
        if not self.clients and self._takes_over and self._settings.port:
            self._taken = take_over(self._settings)
            if self._taken is not None:
                self.clients, self.admin = self._taken.clients, self._taken.admin
        self.clients = self.clients or client_sockets(self._settings, self._takes_over)

    async def started(self, admin: Iterable[socket.socket]) -> None:
        """All is up, the admin port on the sockets `admin`: whom this one replaces may end.

        Raises StartError when it does not end for this one.
        """
        used = list(admin)
        for sock in self.admin:
            if sock not in used:
                sock.close()
        if self._taken is not None:
            taken, self._taken = self._taken, None
            await taken.finish()
        self._offer.start(self._settings, self.port, self.clients, used)

    async def stop(self) -> None:
        """Offer them no more; whoever listens on them closes them."""
        if self._taken is not None:
            self._taken.give_up()
            self._taken = None
        await self._offer.stop()

    def close(self) -> None:
        """Close those on which nothing listens."""
        for sock in (*self.clients, *self.admin):
            sock.close()


def client_sockets(settings: BalancerSettings, nobody_offers: bool = False) -> list[socket.socket]:
    """Sockets that listen where the settings say, one for each address; raises StartError when the port is taken.

    `nobody_offers`: they were asked for, and no balancer has them to give.
    """
    try:
        return listening_sockets(settings.host, settings.port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            "Stop what uses the port, or choose another with --listen or balancer.port. "
            + (NO_OFFER if nobody_offers else "--take-over replaces a balancer that runs there."),
        ) from None
