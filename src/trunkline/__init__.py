"""Trunkline: production WebSockets for Python. This is the public API; everything else may change between versions.

A name is loaded when it is first used (PEP 562), so that a program which needs an exception or a message does not load
a server with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from trunkline.version import __version__

if TYPE_CHECKING:
    from trunkline.bus.base import Publication
    from trunkline.errors import (
        BusUnavailable,
        ClientGone,
        MessageError,
        MessageTooLarge,
        Refused,
        SettingsError,
        StartError,
        TrunklineError,
    )
    from trunkline.http1.requests import Request
    from trunkline.protocol.wire import Position
    from trunkline.server.app.app import App
    from trunkline.server.app.client import Client
    from trunkline.server.app.endpoint import Endpoint, Limits

__all__ = [
    "App",
    "BusUnavailable",
    "Client",
    "ClientGone",
    "Endpoint",
    "Limits",
    "MessageError",
    "MessageTooLarge",
    "Position",
    "Publication",
    "Refused",
    "Request",
    "SettingsError",
    "StartError",
    "TrunklineError",
    "__version__",
]

_MODULES = {
    "App": "trunkline.server.app.app",
    "Client": "trunkline.server.app.client",
    "Endpoint": "trunkline.server.app.endpoint",
    "Limits": "trunkline.server.app.endpoint",
    "Position": "trunkline.protocol.wire",
    "Publication": "trunkline.bus.base",
    "Request": "trunkline.http1.requests",
}
"""Where a public name is defined; exceptions are in `trunkline.errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES.get(name, "trunkline.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
