"""Files that are read whole and put in their place whole, so that no reader ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from trunkline.errors import StartError


def read_stripped(path: Path, setting: str) -> str:
    """The text of a file that `setting` names, without white space around it.

    Raises:
        StartError: the file cannot be read, or is not UTF-8 text; the text may be a secret and is never in it.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise StartError(f"{path} cannot be read: {why}", f"Check {setting}.") from None


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file in its place in one step, with the rights `mode` whatever the old one had.

    Raises:
        OSError: it cannot be written; the old file stands, and nothing is left beside it.
    """
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(fresh).chmod(mode)
        Path(fresh).replace(path)
    except OSError:
        Path(fresh).unlink(missing_ok=True)
        raise
