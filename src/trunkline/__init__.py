"""Trunkline: production WebSockets for Python. This is the public API; everything else may change between versions."""

from trunkline.bus import Publication
from trunkline.errors import (
    BusUnavailable,
    ClientGone,
    MessageError,
    Refused,
    SettingsError,
    StartError,
    TrunklineError,
)
from trunkline.http1.requests import Request
from trunkline.protocol.wire import Position
from trunkline.server.app.app import App, Endpoint
from trunkline.server.app.client import Client
from trunkline.server.app.route import Limits
from trunkline.version import __version__

__all__ = [
    "App",
    "BusUnavailable",
    "Client",
    "ClientGone",
    "Endpoint",
    "Limits",
    "MessageError",
    "Position",
    "Publication",
    "Refused",
    "Request",
    "SettingsError",
    "StartError",
    "TrunklineError",
    "__version__",
]
