from __future__ import annotations

import gzip
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from trunkline.errors import StartError
from trunkline.logs import configure as log
from trunkline.logs.configure import RotatingFile, configure, redact_text
from trunkline.process.locks import take_lock
from trunkline.settings.sections import LogSettings, Secret

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
DAY = 86_400.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Wall:
    def __init__(self) -> None:
        self.now = datetime(2031, 5, 1, 12, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    log.close()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.getLogger().setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def read(path: Path) -> list[str]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line)["event"] for line in text.splitlines()]


def test_json_lines() -> None:
    """An event is one line of JSON with time, level, logger and its fields."""
    out = io.StringIO()
    configure(LogSettings(), stream=out)
    structlog.get_logger("trunkline.node").info("node_up", port=3001)
    [line] = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "node_up", "level": "info", "logger": "trunkline.node", "port": 3001}


def test_level() -> None:
    """What is below the level is not written, by us and by libraries."""
    out = io.StringIO()
    configure(LogSettings(level="warning"), stream=out)
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    structlog.get_logger("a").warning("loud")
    logging.getLogger("b").warning("loud %s", "too")
    assert [line["event"] for line in lines(out)] == ["loud", "loud too"]


def test_exceptions_are_one_line() -> None:
    """A trace is a field of the line, with what it holds masked."""
    out = io.StringIO()
    configure(LogSettings(), stream=out)
    try:
        raise ValueError("cannot reach nats://user:hunter2@bus")
    except ValueError:
        structlog.get_logger("a").exception("failed")
        logging.getLogger("b").exception("failed")
    assert len(lines(out)) == 2
    for line in lines(out):
        assert "ValueError: cannot reach nats://***@bus" in line["exception"]
        assert "hunter2" not in json.dumps(line)


def test_console_on_a_terminal_and_no_color() -> None:
    """On a terminal lines are for people, in colour unless NO_COLOR says otherwise."""
    coloured, plain, forced = Terminal(), Terminal(), io.StringIO()
    for out, environ, settings in (
        (coloured, {"NO_COLOR": ""}, LogSettings()),
        (plain, {"NO_COLOR": "1"}, LogSettings()),
        (forced, {}, LogSettings(format="console")),
    ):
        configure(settings, stream=out, environ=environ)
        structlog.get_logger("a").info("hello", token="abc")
        assert "hello" in out.getvalue()
        assert "abc" not in out.getvalue()
        assert not out.getvalue().startswith("{")
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" not in forced.getvalue()


def test_json_can_be_forced_on_a_terminal() -> None:
    """`format = "json"` wins over the terminal."""
    out = Terminal()
    configure(LogSettings(format="json"), stream=out)
    structlog.get_logger("a").info("hello")
    assert lines(out)[0]["event"] == "hello"


def test_fields_that_hold_secrets_are_masked() -> None:
    """By name and at any depth; numbers and innocent names stay."""
    out = io.StringIO()
    configure(LogSettings(), stream=out)
    structlog.get_logger("a").info(
        "e",
        token="s1",
        Authorization="s2",
        headers={"Cookie": "s3", "x-api-key": "s4", "accept": "*/*"},
        nested=[{"db": {"password": "s5"}}],
        admin_token=Secret("s6"),
        secret=None,
        tokens=3,
        key=Secret("s7"),
        deep=[[[[[["s8"]]]]]],
    )
    [line] = lines(out)
    text = json.dumps(line)
    for number in range(1, 9):
        assert f"s{number}" not in text
    assert line["headers"] == {"Cookie": "***", "x-api-key": "***", "accept": "*/*"}
    assert line["tokens"] == 3
    assert line["secret"] is None


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"GET /ws?token={JWT}&room=a", "GET /ws?token=***&room=a"),
        ("/x?a=1&access_token=abc HTTP/1.1", "/x?a=1&access_token=*** HTTP/1.1"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        (f"Sec-WebSocket-Protocol: trunkline, bearer.{JWT}", "Sec-WebSocket-Protocol: trunkline, bearer.***"),
        (f"got {JWT}!", "got ***!"),
        ("nats://user:pass@host:4222", "nats://***@host:4222"),
        ("redis://:pass@host/0 down", "redis://***@host/0 down"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("a token was missing, basic settings", "a token was missing, basic settings"),
    ],
)
def test_text_that_holds_secrets_is_masked(text: str, masked: str) -> None:
    """Tokens in queries, headers and subprotocols, and users in URLs; other text stays as it is."""
    assert redact_text(text) == masked


def test_libraries_are_masked_too() -> None:
    """What standard logging brings passes the same redaction, its arguments and extra fields included."""
    out = io.StringIO()
    configure(LogSettings(), stream=out)
    logging.getLogger("nats.aio").warning("connecting to %s", "nats://u:hunter2@bus", extra={"password": "hunter3"})
    assert "hunter" not in out.getvalue()
    assert lines(out)[0]["event"] == "connecting to nats://***@bus"


def test_a_second_call_replaces_the_first() -> None:
    """Lines are not written twice after configuring twice."""
    first, second = io.StringIO(), io.StringIO()
    configure(LogSettings(), stream=first)
    configure(LogSettings(), stream=second)
    logging.getLogger("a").info("once")
    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_logging_never_raises(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is gone, and values that cannot be shown, do not reach the caller."""

    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    # The test runner's own handlers raise where ours must not, and are not what is tested.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    configure(LogSettings(), stream=Gone())
    for _ in range(3):
        structlog.get_logger("a").info("e")
        structlog.get_logger("a").info("e", x=Unshowable())
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 1
    assert "log lines are lost" in complaints[0]
    out = io.StringIO()
    configure(LogSettings(), stream=out)
    structlog.get_logger("a").info("e", x=Unshowable())
    assert lines(out)[0]["x"] == "<Unshowable that cannot be shown>"


# --- files ------------------------------------------------------------------------------------------------------------


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def test_errors_go_to_a_file_apart(tmp_path: Path) -> None:
    """With a directory every line is in one file, and errors also in another; standard output has all."""
    out = io.StringIO()
    configure(LogSettings(directory=tmp_path / "logs"), stream=out)
    structlog.get_logger("a").info("fine")
    structlog.get_logger("a").error("bad", token="abc")
    assert read(tmp_path / "logs" / "trunkline.log") == ["fine", "bad"]
    assert read(tmp_path / "logs" / "trunkline.error.log") == ["bad"]
    assert "abc" not in (tmp_path / "logs" / "trunkline.error.log").read_text()
    assert len(lines(out)) == 2


def test_a_new_file_each_day(tmp_path: Path) -> None:
    """At midnight UTC the file is rotated under the day it is about, and compressed."""
    wall = Wall()
    configure(LogSettings(directory=tmp_path), stream=io.StringIO(), wall=wall)
    logger = structlog.get_logger("a")
    logger.info("first")
    wall.now += 11.99 * 3600
    logger.info("same day")
    wall.now += 60
    logger.info("next day")
    log.close()
    assert read(tmp_path / "trunkline.2031-05-01.1.log.gz") == ["first", "same day"]
    assert read(tmp_path / "trunkline.log") == ["next day"]


def test_a_new_file_at_a_size(tmp_path: Path) -> None:
    """No file grows beyond the size, nothing is lost, and numbers go on counting within the day."""
    configure(LogSettings(directory=tmp_path, rotate_bytes=1024), stream=io.StringIO(), wall=Wall())
    logger = structlog.get_logger("a")
    for number in range(50):
        logger.info(f"event {number}")
    log.close()
    rotated = sorted(tmp_path.glob("trunkline.2031-05-01.*.log.gz"), key=lambda path: int(path.name.split(".")[2]))
    assert len(rotated) >= 4
    assert [path.name.split(".")[2] for path in rotated] == [str(number + 1) for number in range(len(rotated))]
    events = [event for path in [*rotated, tmp_path / "trunkline.log"] for event in read(path)]
    assert events == [f"event {number}" for number in range(50)]
    for path in rotated:
        assert len(gzip.decompress(path.read_bytes())) <= 1024


def test_old_files_are_deleted(tmp_path: Path) -> None:
    """Rotated files stay 14 days, error logs 30, and nothing else in the directory is touched."""
    wall = Wall()
    (tmp_path / "notes.2001-01-01.1.log.gz").write_text("somebody else's")
    configure(LogSettings(directory=tmp_path), stream=io.StringIO(), wall=wall)
    logger = structlog.get_logger("a")
    for day in range(40):
        logger.error(f"day {day}")
        wall.now += DAY
    log.close()
    found = names(tmp_path)
    plain = [name for name in found if name.startswith("trunkline.2")]
    errors = [name for name in found if name.startswith("trunkline.error.2")]
    assert "notes.2001-01-01.1.log.gz" in found
    assert len(plain) == 14
    assert len(errors) == 30
    assert max(plain) == "trunkline.2031-06-08.1.log.gz"


def test_what_an_earlier_process_left(tmp_path: Path) -> None:
    """A plain rotated file is compressed at the start, and yesterday's file is rotated under yesterday."""
    wall = Wall()
    (tmp_path / "trunkline.2031-04-29.1.log").write_text('{"event":"left"}\n')
    old = tmp_path / "trunkline.log"
    old.write_text('{"event":"yesterday"}\n')
    os.utime(old, (wall.now - DAY, wall.now - DAY))
    configure(LogSettings(directory=tmp_path), stream=io.StringIO(), wall=wall)
    structlog.get_logger("a").info("today")
    log.close()
    assert read(tmp_path / "trunkline.2031-04-29.1.log.gz") == ["left"]
    assert read(tmp_path / "trunkline.2031-04-30.1.log.gz") == ["yesterday"]
    assert read(tmp_path / "trunkline.log") == ["today"]


def test_what_ended_processes_left_goes_in_its_time(tmp_path: Path) -> None:
    """Their files stay for their days by kind, half compressed ones go; those of a process that runs are left alone."""
    wall = Wall()
    kept = {"trunkline-2.2031-04-18.1.log.gz", "trunkline-3.error.2031-04-02.1.log.gz", "trunkline-3.error.log"}
    gone = {"trunkline-2.2031-04-16.1.log.gz", "trunkline-3.error.2031-03-31.1.log.gz", "trunkline-2.log"}
    running = {"trunkline-4.log", "trunkline-4.2001-01-01.1.log"}
    for name in (*kept, *gone, *running, "trunkline-2.2031-04-20.2.log.part", "trunkline-2.2031-04-20.2.log"):
        (tmp_path / name).write_text('{"event":"left"}\n')
        os.utime(tmp_path / name, (wall.now - 15 * DAY, wall.now - 15 * DAY))
    lock = take_lock(tmp_path / ".trunkline-4.lock")
    configure(LogSettings(directory=tmp_path), stream=io.StringIO(), wall=wall)
    log.close()
    os.close(lock)
    own = {"trunkline.log", "trunkline.error.log"}
    assert set(names(tmp_path)) == kept | running | own | {"trunkline-2.2031-04-20.2.log.gz"}


@pytest.mark.parametrize("copied", [True, False])
def test_somebody_else_may_rotate(tmp_path: Path, copied: bool) -> None:
    """A file that logrotate copies and empties, or moves away, is gone on with; no line is lost or torn."""
    configure(LogSettings(directory=tmp_path), stream=io.StringIO())
    logger = structlog.get_logger("a")
    logger.info("first")
    ours, moved = tmp_path / "trunkline.log", tmp_path / "trunkline.log.1"
    if copied:
        moved.write_bytes(ours.read_bytes())
        os.truncate(ours, 0)
    else:
        ours.rename(moved)
    logger.info("second")
    assert (read(moved), read(ours)) == (["first"], ["second"])


SHORT_OF_SPACE = """
import resource, signal, sys, structlog
from pathlib import Path
from trunkline.logs.configure import configure
from trunkline.settings.sections import LogSettings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
configure(LogSettings(directory=Path(sys.argv[1])), stream=open("/dev/null", "w"))
logger = structlog.get_logger("a")
resource.setrlimit(resource.RLIMIT_FSIZE, (300, most))
for number in range(4):
    logger.info(f"early {number}")
if sys.argv[2] == "goes on":
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    logger.info("late")
"""


@pytest.mark.parametrize("end", ["goes on", "is started again"])
def test_a_line_that_was_written_in_part_is_joined_to_no_other(tmp_path: Path, end: str) -> None:
    """On a full disk a line may break off: the next one, of this process or of the next, begins below it."""
    program = [sys.executable, "-c", SHORT_OF_SPACE, str(tmp_path)]
    subprocess.run([*program, end], check=True, capture_output=True)
    if end != "goes on":
        assert not (tmp_path / "trunkline.log").read_bytes().endswith(b"\n")
        subprocess.run([*program, "goes on"], check=True, capture_output=True)
    found = (tmp_path / "trunkline.log").read_text().splitlines()
    broken = [line for line in found if not line.endswith("}")]
    assert len(broken) == 1
    assert json.loads(found[0])["event"] == "early 0"
    assert json.loads(found[-1])["event"] == "late"
    assert found.index(broken[0]) == len(found) - 2


def test_two_processes_have_files_of_their_own(tmp_path: Path) -> None:
    """While one process writes, another in the same directory takes the next name; after it ended the name is free."""
    program = (
        "import sys, structlog\nfrom pathlib import Path\nfrom trunkline.settings.sections import LogSettings\n"
        "from trunkline.logs.configure import configure\nconfigure(LogSettings(directory=Path(sys.argv[1])))\n"
        "structlog.get_logger('a').info('other')\n"
    )
    configure(LogSettings(directory=tmp_path), stream=io.StringIO())
    structlog.get_logger("a").info("one")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)
    assert read(tmp_path / "trunkline.log") == ["one"]
    assert read(tmp_path / "trunkline-2.log") == ["other"]
    log.close()
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)
    assert read(tmp_path / "trunkline.log") == ["one", "other"]


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """It stops the start with the setting's name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"log\.directory"):
        configure(LogSettings(directory=tmp_path / "file" / "logs"), stream=io.StringIO())


def test_a_full_disk_loses_lines_and_recovers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When rotation fails the caller hears nothing, and writing goes on once the directory is back."""
    wall = Wall()
    directory = tmp_path / "logs"
    directory.mkdir()
    handler = RotatingFile(directory, "x", rotate_bytes=10_000, keep_days=3650, wall=wall)
    handler.setFormatter(logging.Formatter('{"event":"%(message)s"}'))
    logger = logging.Logger("apart")
    logger.addHandler(handler)
    logger.info("before")
    away = tmp_path / "away"
    directory.rename(away)
    wall.now += DAY
    logger.info("lost")
    logger.info("lost")
    away.rename(directory)
    logger.info("after")
    handler.close()
    assert capsys.readouterr().err.count("log lines are lost") == 1
    kept = [event for path in sorted(directory.glob("x*")) for event in read(path)]
    assert kept == ["before", "after"]
