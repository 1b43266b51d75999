"""`trunkline serve --reload`: run the server as a child and start it again when a source file changes.

A server that ended by itself, most often at a mistake in the file that was just saved, is not started again before the
next change: it would fail alike.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trunkline.errors import StartError
from trunkline.process.ending import ended
from trunkline.process.lifecycle import die_with_parent

LOOK_MS: Final = 200
"""How often the child is looked at while no file changes."""


def run_reloading(argv: Sequence[str]) -> int:
    """Watch the working directory and run `argv` without `--reload`; raises StartError without watchfiles."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise StartError(
            "--reload needs the package watchfiles", "Install it: pip install 'trunkline[reload]'."
        ) from None
    command = [sys.executable, "-m", "trunkline", *(word for word in argv[1:] if word != "--reload")]
    child = _start(command)
    waits = False
    try:
        for changes in watch(
            Path.cwd(), watch_filter=PythonFilter(), raise_interrupt=False, rust_timeout=LOOK_MS, yield_on_timeout=True
        ):
            if not changes:
                if not waits and (code := child.poll()) is not None:
                    waits = True
                    print(f"trunkline: the server {ended(code)}; waiting for a file to change", file=sys.stderr)
                continue
            names = ", ".join(sorted({Path(path).name for _, path in changes}))
            print(f"trunkline: {names} changed, restarting", file=sys.stderr)
            _stop(child)
            child = _start(command)
            waits = False
    finally:
        code = _stop(child)
    return code


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, preexec_fn=die_with_parent())  # noqa: S603, PLW1509 - our own command line


def _stop(child: subprocess.Popen[bytes]) -> int:
    """End the child at once: in development there is no need to drain."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(0.5)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()
    return child.returncode or 0
