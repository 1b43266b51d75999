"""Finds the application that `module:attribute` names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from trunkline.errors import StartError
from trunkline.server.app.app import App

STOCK = "trunkline.server.app.stock:app"


def load_app(address: str) -> App:
    """Import an application; the working directory is searched first, as uvicorn does.

    Args:
        address: `module:attribute`; empty for the stock app.

    Raises:
        StartError: the module or the attribute is not there, or is no App. An exception raised inside the module itself
            is not hidden.
    """
    module_name, colon, attribute = (address or STOCK).partition(":")
    if not colon or not module_name or not attribute:
        raise StartError(f"{address!r} names no application", "Write it as module:attribute, for example chat:app.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise
        raise StartError(f"there is no module {module_name!r}", f"Is it in {here} or installed?") from None
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        raise StartError(f"{address!r} is {type(found).__name__}, not a trunkline.App", "Name the App object.")
    return found
