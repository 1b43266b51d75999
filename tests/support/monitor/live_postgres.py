"""A PostgreSQL of its own in a temporary directory, and the exporter that looks at it."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.free_ports import free_port
from tests.support.patience import patient

EXPORTER = shutil.which("prometheus-postgres-exporter") or shutil.which("postgres_exporter")
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def programs() -> Path | None:
    """Where initdb and its neighbours are: where Debian puts the newest version, or on PATH."""
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def missing() -> str:
    """What a test with a live PostgreSQL lacks here; empty: nothing."""
    if programs() is None:
        return "PostgreSQL is not installed"
    if EXPORTER is None:
        return "postgres_exporter is not installed"
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def _user() -> str | None:
    """PostgreSQL refuses root."""
    return "postgres" if os.geteuid() == 0 else None


class Postgres(NamedTuple):
    """A running server; its directory is also that of its socket."""

    directory: Path

    def address(self, database: str = "postgres", user: str = "postgres") -> str:
        """As programs that use libpq's words are told it."""
        return f"host={self.directory} user={user} dbname={database}"

    def sql(self, *statements: str, database: str = "postgres", check: bool = True) -> str:
        """Run statements one after another; returns what they answer, without heads."""
        arguments = [word for each in statements for word in ("-c", each)]
        done = subprocess.run(
            ["psql", "-XqAt", self.address(database), *arguments],
            capture_output=True,
            text=True,
            timeout=patient(60),
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout.strip()

    def session(self, database: str = "postgres") -> subprocess.Popen[str]:
        """A client that stays; statements go to its stdin."""
        return subprocess.Popen(
            ["psql", "-XqAt", self.address(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, user=_user(), timeout=patient(60), check=False, cwd="/"
    )
    if done.returncode:
        raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}")


@contextmanager
def start(directory: Path, *settings: str) -> Iterator[Postgres]:
    """Start a server whose cluster is in `directory`/data; stop it at once in the end."""
    bin_ = programs()
    assert bin_ is not None
    quick = ("listen_addresses=", f"unix_socket_directories={directory}", "fsync=off", "shared_buffers=16MB")
    options = " ".join(f"-c {each}" for each in (*quick, *settings))
    data, log = str(directory / "data"), str(directory / "log")
    _run(str(bin_ / "pg_ctl"), "-D", data, "-l", log, "-w", "-t", "30", "-o", options, "start")
    try:
        yield Postgres(directory)
    finally:
        _run(str(bin_ / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that PostgreSQL's user may write to, with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="trunkline-pg-"))
    try:
        if (user := _user()) is not None:
            shutil.chown(path, user)
            path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def new(*settings: str) -> Iterator[Postgres]:
    """A new server."""
    bin_ = programs()
    assert bin_ is not None
    with directory() as path:
        _run(str(bin_ / "initdb"), "-D", str(path / "data"), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        with start(path, *settings) as server:
            yield server


@contextmanager
def standby(primary: Postgres) -> Iterator[Postgres]:
    """A standby of a server."""
    bin_ = programs()
    assert bin_ is not None
    with directory() as path:
        source = ("-h", str(primary.directory), "-U", "postgres", "-c", "fast", "-R", "--no-sync")
        _run(str(bin_ / "pg_basebackup"), "-D", str(path / "data"), *source)
        with start(path) as server:
            yield server


class Exporter(NamedTuple):
    """A running exporter."""

    url: str
    log: Path

    def text(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(self.url, timeout=patient(10)) as answer:
            read: bytes = answer.read()
        return read.decode()

    def samples(self) -> Samples:
        """What Prometheus would read, by series and labels; the label of the server is left out."""
        found: Samples = {}
        for line in self.text().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name, _, labels = series.partition("{")
                pairs = (pair.partition("=")[::2] for pair in labels.rstrip("}").split('",') if pair)
                key = tuple(sorted((label, text.strip('"')) for label, text in pairs if label != "server"))
                found.setdefault(name, {})[key] = float(value)
        return found

    def until(self, holds: Callable[[Samples], bool], within: float = 15) -> Samples:
        """Scrape until something holds."""
        until = time.monotonic() + patient(within)
        while not holds(samples := self.samples()):
            assert time.monotonic() < until, samples
            time.sleep(0.1)
        return samples


@contextmanager
def exporter(server: Postgres, queries: Path, user: str = "postgres") -> Iterator[Exporter]:
    """postgres_exporter with our queries, looking at every database of a server."""
    assert EXPORTER is not None
    port = free_port()
    log = queries.parent / f"exporter-{port}.log"
    command = [
        EXPORTER,
        f"--web.listen-address=127.0.0.1:{port}",
        f"--extend.query-path={queries}",
        "--auto-discover-databases",
    ]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "DATA_SOURCE_NAME": server.address(user=user)}
        )
    try:
        running = Exporter(f"http://127.0.0.1:{port}/metrics", log)
        until = time.monotonic() + patient(15)
        while True:
            try:
                running.text()
                break
            except urllib.error.URLError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield running
    finally:
        process.terminate()
        process.wait(10)
