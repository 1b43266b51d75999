"""`trunkline health`: where it asks, and what it makes of the answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.command_line import refusal
from tests.support.patience import patient
from trunkline.cli import probe
from trunkline.cli.commands import app
from trunkline.cli.probe import Place, Question


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("serve", Place("127.0.0.1", 3001)),
        ("serve shop:app --port 9000 --host ::", Place("::1", 9000)),
        ("serve --reload --host=10.0.0.1 --port=9001", Place("10.0.0.1", 9001)),
        ("balance", Place("127.0.0.1", 8081)),
        ("balance --mode steer --listen 0.0.0.0:80", Place("127.0.0.1", 81)),
        ("balance --listen=[::]:8000 --workers 2", Place("127.0.0.1", 8001)),
        ("load ws://127.0.0.1", None),
    ],
)
def test_where_a_command_line_is_asked(line: str, place: Place | None) -> None:
    """A node on its data port, a balancer on its admin port; other commands have no page."""
    assert probe.place_of(line.split()) == place


def test_environment_and_file_count_as_for_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PORT of the image, a settings file, and options of the command line over both."""
    (tmp_path / "own.toml").write_text("[server]\nport = 4001\n[balancer]\nadmin_port = 4002\n")
    assert probe.place_of(["serve", "--config", "own.toml"]) == ("127.0.0.1", 4001)
    assert probe.place_of(["balance", "--config", "own.toml"]) == ("127.0.0.1", 4002)
    monkeypatch.setenv("PORT", "4003")
    assert probe.place_of(["serve", "--config", "own.toml"]) == ("127.0.0.1", 4003)
    assert probe.place_of(["serve", "--port", "4004"]) == ("127.0.0.1", 4004)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["/opt/trunkline/bin/python3", "/opt/trunkline/bin/trunkline", "serve", "--port", "1"],
            ("serve", "--port", "1"),
        ),
        (["/sbin/docker-init", "--", "trunkline", "balance"], ("balance",)),
        (["python", "-m", "trunkline", "serve"], ("serve",)),
        (["sh", "-c", "sleep 1"], None),
        ([""], None),
    ],
)
def test_the_command_line_of_process_1(words: list[str], line: tuple[str, ...] | None) -> None:
    """With or without an init before it."""
    assert probe.line_of(words) == line


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("health", Question(False, ())),
        ("health --ready", Question(True, ())),
        ("health --ready serve --port 1", Question(True, ("serve", "--port", "1"))),
    ],
)
def test_read_as_by_typer(line: str, found: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read without typer means what typer makes of it."""
    assert probe.read(line.split()) == found
    asked: list[Question] = []
    monkeypatch.setattr(probe, "run", lambda question: asked.append(question) or 0)
    assert CliRunner().invoke(app, line.split()).exit_code == 0
    assert asked == [found]


@pytest.mark.parametrize("line", ["", "serve", "health --help", "health serve -h", "health --read"])
def test_left_to_typer(line: str) -> None:
    """Help, mistakes and other commands."""
    assert probe.read(line.split()) is None


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown option, and a port that nobody can know."""
    assert "--read" in refusal("health --read", monkeypatch, capsys)
    assert "sevre cannot be used; allowed: serve or balance" in refusal("health sevre", monkeypatch, capsys)
    assert "stands before the command" in refusal("health balance --ready", monkeypatch, capsys)
    assert "serve --prot 1 cannot be used" in refusal("health serve --prot 1", monkeypatch, capsys)
    assert "needs a fixed port to ask" in refusal("health serve --port 0", monkeypatch, capsys)


@pytest.fixture
def answers() -> Iterator[dict[str, object]]:
    """A server that answers every connection with `answer`; its port is under `port`, the request under `request`."""
    told: dict[str, object] = {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        told["port"] = server.getsockname()[1]

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                told["request"] = connection.recv(4096)
                connection.sendall(told["answer"])  # type: ignore[arg-type]

        thread = threading.Thread(target=serve)
        thread.start()
        yield told
        thread.join()


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nalive\n", 0, "alive\n"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\ndraining", 1, "/healthz answers 503: draining\n"),
        (b"SSH-2.0-OpenSSH\r\n", 1, "/healthz answers no HTTP\n"),
        (b"", 1, "/healthz answers no HTTP\n"),
    ],
)
def test_answers(
    answer: bytes, code: int, said: str, answers: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """200 is well; the reason for anything else is one line on standard error, which `docker inspect` shows."""
    answers["answer"] = answer
    assert probe.run(Question(False, ("serve", "--port", str(answers["port"])))) == code
    out, err = capsys.readouterr()
    assert (out or err).endswith(said)
    assert bytes(answers["request"]).startswith(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:")  # type: ignore[call-overload]


def test_a_server_that_never_ends_its_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit is that of the whole answer, not of the next byte."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.3)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(400):
                    connection.sendall(b"H")
                    if ended.wait(0.05):
                        break

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        line = ("serve", "--port", str(server.getsockname()[1]))
        assert probe.run(Question(False, line)) == 1
        assert time.monotonic() - began < patient(2)
        ended.set()
        thread.join()
    assert "does not answer: timed out" in capsys.readouterr().err


def test_nobody_listens(unused_tcp_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line in the file of process 1; one that is no command of trunkline is named."""
    first = tmp_path / "cmdline"
    first.write_text(f"trunkline\0serve\0--port\0{unused_tcp_port}\0")
    assert probe.run(Question(True, ()), first) == 1
    assert f"http://127.0.0.1:{unused_tcp_port}/ready does not answer: Connection refused" in capsys.readouterr().err
    first.write_text(f"trunkline\0serve\0shop:app\0--port\0{unused_tcp_port}\0")
    assert probe.run(Question(False, ()), first) == 1
    assert f":{unused_tcp_port}/healthz does not answer" in capsys.readouterr().err
    first.write_text("sleep\x001\0")
    assert probe.run(Question(False, ()), first) == 1
    assert "process 1 is no trunkline command; name what to ask" in capsys.readouterr().err


def test_a_command_that_serves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A load test in a container is not unhealthy."""
    first = tmp_path / "cmdline"
    first.write_text("trunkline\0load\0ws://127.0.0.1\0")
    assert probe.run(Question(False, ()), first) == 0
    assert capsys.readouterr().out == "trunkline load has no page to ask; it runs\n"
