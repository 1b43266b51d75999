from __future__ import annotations

import socket
from pathlib import Path

import pytest

from trunkline.process.sockets.private import PrivateSocket, check_private, connect, forget_dead, is_own


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Longer than the address of a socket may be.
    state = tmp_path / ("state" + "x" * 100)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return state


def test_two_processes_of_a_user_meet(own_places: Path) -> None:
    """A name leads to the socket that listens under it, for this user alone, however long its path is."""
    assert connect("a.sock", 1.0) is None
    private = PrivateSocket("a.sock")
    assert private.path == own_places / "trunkline" / "a.sock"
    assert private.path.stat().st_mode & 0o777 == 0o600
    assert private.path.parent.stat().st_mode & 0o777 == 0o700
    peer = connect("a.sock", 1.0)
    assert peer is not None
    private.sock.setblocking(True)
    other, _ = private.sock.accept()
    assert is_own(peer)
    assert is_own(other)
    for sock in (peer, other):
        sock.close()
    private.close()
    assert list(private.path.parent.iterdir()) == []
    assert connect("a.sock", 1.0) is None


def test_a_name_that_another_has_taken_stays() -> None:
    """The second one replaces the first one's name, and the first one's end leaves it."""
    first, second = PrivateSocket("a.sock"), PrivateSocket("a.sock")
    first.close()
    peer = connect("a.sock", 1.0)
    assert peer is not None
    peer.close()
    second.close()


def test_a_name_without_a_process_is_replaced() -> None:
    """What a killed process left behind answers nobody, and is in nobody's way."""
    left = PrivateSocket("a.sock")
    left.sock.close()
    assert connect("a.sock", 1.0) is None
    PrivateSocket("a.sock").close()
    assert not left.path.exists()


def test_names_of_killed_processes_go() -> None:
    """Those that nobody listens on, and no others."""
    left, lives, other = PrivateSocket("a-1.sock"), PrivateSocket("a-2.sock"), PrivateSocket("b.sock")
    left.sock.close()
    other.sock.close()
    forget_dead("a-*.sock")
    assert sorted(path.name for path in left.path.parent.iterdir()) == ["a-2.sock", "b.sock"]
    lives.close()


def test_directories_that_others_can_write(own_places: Path, tmp_path: Path) -> None:
    """Such a directory is not used; the next one is."""
    folder = own_places / "trunkline"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        check_private(folder)
    private = PrivateSocket("a.sock")
    assert private.path == tmp_path / "run" / "trunkline" / "a.sock"
    private.close()
    (tmp_path / "run" / "trunkline").chmod(0o770)
    with pytest.raises(OSError, match="can be written by others"):
        PrivateSocket("a.sock")
    planted = socket.socket(socket.AF_UNIX)
    planted.close()
