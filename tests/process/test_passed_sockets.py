from __future__ import annotations

import os

import pytest

from trunkline.process.sockets.passed import passed_sockets


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
    ],
)
def test_variables_of_another_process_are_not_ours(environ: dict[str, str]) -> None:
    """What a parent was started with names no sockets of ours."""
    assert passed_sockets(environ) == {}
