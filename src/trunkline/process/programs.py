"""Where the servers are that come as packages: the one installed beside us wins over whatever the PATH has."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib import metadata
from pathlib import Path

from trunkline.errors import StartError


def find_program(name: str, package: str, missing: StartError) -> Path:
    """The program that was installed with the distribution `package`, else the one on the PATH; raises `missing`."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(package) or ():
            if file.stem == name:
                path = Path(str(file.locate())).resolve()
                if os.access(path, os.X_OK):
                    return path
    found = shutil.which(name)
    if found is None:
        raise missing
    return Path(found)
