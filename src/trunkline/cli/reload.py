"""`trunkline serve --reload`: run the server as a child and start it again when a source file changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trunkline.errors import StartError
from trunkline.process.lifecycle import die_with_parent


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
    try:
        for changes in watch(Path.cwd(), watch_filter=PythonFilter(), raise_interrupt=False):
            names = ", ".join(sorted({Path(path).name for _, path in changes}))
            print(f"trunkline: {names} changed, restarting", file=sys.stderr)
            _stop(child)
            child = _start(command)
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
