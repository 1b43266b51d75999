"""What a process prints, line by line."""

from __future__ import annotations

from trunkline.process.printed import Printed


def test_lines_of_two_streams() -> None:
    """Chunks become whole lines of each stream; empty ones are left out, the last ones kept."""
    heard: list[str] = []
    printed = Printed(2, heard.append)
    printed.take(b"on", False)
    printed.take(b"error 1\nerr", True)
    printed.take(b"e \r\n\n\xff\n", False)
    assert heard == ["error 1", "one", "\ufffd"]
    assert printed.last() == ["one", "\ufffd", "err"]
    assert printed.taken_bytes == 20


def test_a_line_without_end() -> None:
    """It is cut, so that memory does not fill."""
    heard: list[str] = []
    printed = Printed(5, heard.append)
    for _ in range(70):
        printed.take(b"x" * 1000, False)
    assert [len(line) for line in heard] == [66_000]
