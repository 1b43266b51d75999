"""Finds the application that `module:attribute` names."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from trunkline.errors import StartError
from trunkline.server.app.app import App

STOCK = "trunkline.server.app.stock:app"


def load_app(address: str) -> App:
    """Import an application; the working directory is searched first, as uvicorn does.

    Args:
        address: `module:attribute`; empty for the stock app.

    Raises:
        StartError: the module or the attribute is not there, or is no App; or the module itself raised an exception, of
            which the text shows the frames outside of Trunkline.
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
            raise _failed(module_name, error) from None
        raise StartError(f"there is no module {module_name!r}", f"Is it in {here} or installed?") from None
    except Exception as error:
        raise _failed(module_name, error) from None
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        raise StartError(f"{address!r} is {type(found).__name__}, not a trunkline.App", "Name the App object.")
    return found


def _failed(module_name: str, error: Exception) -> StartError:
    """What an exception of the application's module is reported as: the way to the import says nothing about it."""
    trace = error.__traceback__
    while trace is not None and _is_on_the_way(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(error.with_traceback(trace))).rstrip()
    brief = f"{type(error).__name__}: {error}".partition("\n")[0]
    return StartError(f"the module {module_name!r} cannot be imported: {brief}", f"Correct it and start again.\n{text}")


def _is_on_the_way(file: str) -> bool:
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")
