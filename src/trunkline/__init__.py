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
from trunkline.server.app import App, Endpoint
from trunkline.server.client import Client
from trunkline.server.http import Request
from trunkline.server.route import Limits
from trunkline.version import __version__
from trunkline.wire import Position

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
