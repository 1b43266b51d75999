"""What a child prints: kept in its file, and what matters of it shown."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from trunkline.errors import StartError
from trunkline.fleet.children.log import KEPT_LINES, ChildLog, Quota, delete_old, serious


@pytest.mark.parametrize(
    ("line", "is_error", "shown"),
    [
        ('{"level":"info","event":"node_up"}', False, None),
        ('{"level":"warning","event":"slow"}', False, "warning slow"),
        ('{"level":"error","event":"boom","exception":"Trace\\n  x\\nKeyError: 3"}', False, "error boom: KeyError: 3"),
        ('{"level":"info","event":"an error of a client"}', True, None),
        ("2026-01-01 [warning  ] odd thing", False, "2026-01-01 [warning  ] odd thing"),
        ("WARNING: old library", False, "WARNING: old library"),
        ("an application prints that no error happened", False, None),
        ("Segmentation fault", True, "Segmentation fault"),
        ("Traceback (most recent call last):", True, None),
        ('  File "chat.py", line 3, in <module>', True, None),
        ("LookupError: gone", True, "LookupError: gone"),
        ("", True, None),
        ("[1, 2]", False, None),
        ("x" * 1000, True, "x" * 299 + "…"),
    ],
)
def test_what_is_shown_of_a_line(line: str, is_error: bool, shown: str | None) -> None:
    """Warnings and errors in JSON or text, and of standard error all but the inside of a trace."""
    assert serious(line, is_error) == shown


def opened(tmp_path: Path, rotate_bytes: int = 100_000) -> tuple[ChildLog, list[str]]:
    shown: list[str] = []
    log = ChildLog(tmp_path / "logs" / "node-1.log", rotate_bytes, shown.append)
    log.open()
    return log, shown


def test_lines_cut_anywhere_are_put_together(tmp_path: Path) -> None:
    """Chunks need not end at a line, and the two streams do not mix."""
    log, shown = opened(tmp_path)
    text = b'{"level":"warning","event":"a"}\n{"level":"info","event":"b"}\n{"level":"error","event":"c"}\n'
    for index in range(len(text)):
        log.write(text[index : index + 1], False)
        if index == 40:
            log.write(b"from the other stream\n", True)
    assert shown == ["warning a", "from the other stream", "error c"]
    log.close()
    assert b"from the other stream" in log.path.read_bytes()


def test_last_lines_hold_an_unfinished_one(tmp_path: Path) -> None:
    """What a child said last is kept, also a line it did not finish, and forgotten by its next run."""
    log, _ = opened(tmp_path)
    log.write(b"".join(b"line %d\n" % number for number in range(100)), False)
    log.write(b"Fatal: half a li", True)
    lines = log.last_lines()
    assert lines[-2:] == ["line 99", "Fatal: half a li"]
    assert len(lines) <= KEPT_LINES
    log.begin("again")
    assert log.last_lines() == []
    log.close()


def test_reason_of_a_refusal_is_kept(tmp_path: Path) -> None:
    """The one line with which a command says that it cannot start is at hand without its prefix."""
    log, _ = opened(tmp_path)
    log.write(b"trunkline: port 80 is taken. Choose another.\n", True)
    assert log.refusal == "port 80 is taken. Choose another."
    log.close()


def test_file_of_the_run_before_is_kept_once(tmp_path: Path) -> None:
    """A new run begins a new file; the one before is at hand as `.1`, older ones are gone."""
    for run in range(3):
        log, _ = opened(tmp_path)
        log.write(b"run %d\n" % run, False)
        log.close()
    assert log.path.read_text() == "run 2\n"
    assert log.path.with_name("node-1.log.1").read_text() == "run 1\n"
    assert len(list(log.path.parent.iterdir())) == 2


def test_file_does_not_grow_beyond_its_size(tmp_path: Path) -> None:
    """At the size the file is rotated, so that a long run cannot fill the disk."""
    log, _ = opened(tmp_path, rotate_bytes=1000)
    for _ in range(50):
        log.write(b"x" * 99 + b"\n", False)
    log.close()
    assert all(file.stat().st_size <= 1000 for file in log.path.parent.iterdir())


def test_what_a_write_did_not_take_is_written_after_it(tmp_path: Path) -> None:
    """A disk that fills up takes a part of a chunk: the rest follows, before anything else."""

    class Slow(FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:7])

    log, _ = opened(tmp_path)
    log._file = Slow(log.path, "wb")
    log.write(b"one long line\n", False)
    log.write(b"another line\n", False)
    log.close()
    assert log.path.read_bytes() == b"one long line\nanother line\n"


def test_files_of_parts_that_are_no_more_go_in_their_time(tmp_path: Path) -> None:
    """What was not written to for its days is deleted, log files alone; a directory that is missing is no fault."""
    day = 86_400
    for name, age in (("node-7.log", 15), ("node-7.log.1", 15), ("node-1.log", 13), ("notes.txt", 99)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (100 * day - age * day,) * 2)
    delete_old(tmp_path, 14, 100 * day)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node-1.log", "notes.txt"]
    delete_old(tmp_path / "none", 14, 100 * day)


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where the directory should be stops the start with the path and the flag to change."""
    (tmp_path / "logs").write_text("")
    with pytest.raises(StartError, match=r"node-1\.log cannot be written.*--data-dir"):
        opened(tmp_path)


def test_flood_is_cut_and_counted() -> None:
    """Within a span only so many lines are shown; afterwards the rest is counted once."""
    quota = Quota(lines=3, span_s=10)
    assert [quota.take(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert quota.left_out(105.0) == 0
    assert quota.left_out(110.0) == 2
    assert quota.left_out(110.0) == 0
    assert quota.take(111.0)
