"""The command line: one file a command. Each parses its flags, loads the settings and calls one room.

Exit codes: 0 done, 1 a check failed, 2 bad usage or settings, 130 interrupted before a command could stop in order.
Errors that Trunkline raises on purpose are one line on standard error; anything else is a bug and shows its trace.
"""

from __future__ import annotations

import sys

from trunkline.cli import node, probe
from trunkline.errors import SettingsError, StartError

INTERRUPTED = 130
"""What a shell reports of a command that Ctrl-C ended; typer answers the same for the commands that it runs."""

RELOADING = (["serve"], ["balance"], ["up"])
"""Commands that read their settings again at SIGHUP."""


def main() -> None:
    """Entry point of the `trunkline` command."""
    if sys.argv[1:2] in RELOADING and "--reload" not in sys.argv:
        from trunkline.process import hang_up

        hang_up.hold()
    try:
        if (arguments := node.read(sys.argv[1:])) is not None:
            sys.exit(node.run(*arguments))
        if (question := probe.read(sys.argv[1:])) is not None:
            sys.exit(probe.run(question))
        from trunkline.cli.commands import app

        app()
    except (SettingsError, StartError) as error:
        print(f"trunkline: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
