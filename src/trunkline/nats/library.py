"""Loads nats-py without aiohttp, which it imports wherever that is installed, for connections over WebSocket.

We offer none of those, and aiohttp costs a node 10 MB and 0.1 s of CPU. An application that wants them for a connection
of its own imports nats-py itself, which happens before a node opens its bus; then nothing is left out.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast

if "nats" not in sys.modules and "aiohttp" not in sys.modules:
    modules = cast("dict[str, Any]", sys.modules)
    modules["aiohttp"] = None  # as if it were not installed
    try:
        importlib.import_module("nats.aio.client")
    finally:
        del modules["aiohttp"]
