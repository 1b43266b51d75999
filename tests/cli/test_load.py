"""`trunkline load` as its users run it: exit codes, one clear line for each mistake, Ctrl-C, files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from tests.support.command_line import refusal
from tests.support.free_ports import free_port
from tests.support.load.faulty_server import Faults, FaultyProcess, FaultyServer
from tests.support.patience import patient

SHORT = ("--connections", "5", "--duration", "1s", "--rate", "50", "--no-watch")


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    return kept | {"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1", "COLUMNS": "100"}


async def start(tmp_path: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "load", *arguments, cwd=tmp_path, env=environment(tmp_path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def load(tmp_path: Path, *arguments: str) -> Ran:
    process = await start(tmp_path, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), patient(60))
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return Ran(process.returncode, out.decode(), err.decode())


async def test_a_good_run(tmp_path: Path) -> None:
    """Exit 0, a summary on standard output, and the reports in the files that were named."""
    async with FaultyProcess() as server:
        url = server.url("/echo?token=verysecret")
        files = ("--html", "r.html", "--junit", "r.xml", "--out", "r.json")
        ran = await load(tmp_path, url, *SHORT, *files, "--header", "Authorization: Bearer verysecret")
    assert ran.code == 0, ran
    assert "PASSED" in ran.out
    assert "round trip" in ran.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "passed"
    assert ElementTree.parse(tmp_path / "r.xml").getroot().tag == "testsuites"
    assert (tmp_path / "r.html").read_bytes().startswith(b"<!doctype html>")
    for text in (ran.out, ran.err, *(path.read_text() for path in tmp_path.glob("r.*"))):
        assert "verysecret" not in text


async def test_json_on_standard_output(tmp_path: Path) -> None:
    """With --json the report and nothing else is printed there."""
    async with FaultyProcess() as server:
        ran = await load(tmp_path, server.url("/echo"), *SHORT, "--json")
    assert json.loads(ran.out)["scenario"] == "hold"


async def test_a_threshold_that_fails(tmp_path: Path) -> None:
    """Exit 1, and the threshold is named with its value."""
    async with FaultyProcess() as server:
        ran = await load(tmp_path, server.url("/echo"), *SHORT, "--threshold", "message_p50<1us")
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "message_p50<1us" in ran.out


async def test_one_bad_publication_in_ten_thousand(tmp_path: Path) -> None:
    """A server that drops, doubles and reorders one delivery in 10,000: exit 1, channel and offset are named."""
    words = {"drop": "lost", "duplicate": "duplicate", "reorder": "reordered"}
    # Shares without a common divisor do not meet at one delivery.
    async with FaultyProcess("drop:9973", "duplicate:10000", "reorder:10007") as server:
        ran = await load(
            tmp_path, server.url(), "--connections", "100", "--channels", "1", "--duration", "5s", "--rate", "80",
            "--no-watch", "--out", "r.json",
        )  # fmt: skip
        did = sorted((words[each.kind], each.channel, each.offset) for each in await server.did())
    assert ran.code == 1
    assert all(2 <= [each for each, _, _ in did].count(word) < 10 for word in words.values())
    report = json.loads((tmp_path / "r.json").read_text())
    found = sorted((each["kind"], each["channel"], each["offset"]) for each in report["findings"])
    assert found == did
    named = {word for word, channel, offset in did if f"{channel} offset {offset}" in ran.out}
    assert named == set(words.values())


def line(ran: Ran) -> str:
    """The one line of an error."""
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran.err
    assert ran.code == 2
    assert ran.out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://127.0.0.1/"], "ws://host:port/path"),
        (["ws://127.0.0.1:1/", "--scenario", "rmap"], "did you mean ramp?"),
        (["ws://127.0.0.1:1/", "--scenario", "nowhere.toml"], "nowhere.toml"),
        (["ws://127.0.0.1:1/", "--duration", "fast"], "--duration"),
        (["ws://127.0.0.1:1/", "--connections", "0"], "connections"),
        (["ws://127.0.0.1:1/", "--threshold", "conect_p95<1s"], "connect"),
        (["ws://127.0.0.1:1/", "--threshold", "connect_p95<1"], "unit"),
        (["ws://127.0.0.1:1/", "--header", "no colon"], "--header"),
        (["ws://127.0.0.1:1/", "--protocol", "steps"], "--protocol"),
        (["ws://127.0.0.1:1/", "--html", "missing/r.html"], "missing/r.html"),
        (["ws://127.0.0.1:1/", "--message-bytes", "1"], "--message-bytes"),
        (["compare", "a.json", "b.json"], "a.json"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tmp_path: Path,
    arguments: Sequence[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be used is named before anything is connected; exit 2, no trace."""
    monkeypatch.chdir(tmp_path)
    (text,) = refusal(["load", *arguments], monkeypatch, capsys).strip().splitlines()
    assert says in text


async def test_a_malformed_scenario_names_line_and_field(tmp_path: Path) -> None:
    """The mistake in a file is found without searching."""
    (tmp_path / "s.toml").write_text('[[stages]]\nduration = "10s"\nconnections = "many"\n')
    text = line(await load(tmp_path, "ws://127.0.0.1:1/", "--scenario", "s.toml"))
    assert "stages[0].connections" in text
    assert "s.toml line 3" in text


async def test_nobody_listens(tmp_path: Path) -> None:
    """An unreachable address is one line and exit 2."""
    assert "refused, nobody listens" in line(await load(tmp_path, f"ws://127.0.0.1:{free_port()}/ws"))


async def test_more_connections_than_files(tmp_path: Path) -> None:
    """One process that cannot hold its share says how many files are missing and what to change."""
    async with FaultyServer() as server:
        ran = await load(
            tmp_path,
            server.url("/echo"),
            "--connections",
            "3000000",
            "--processes",
            "1",
            "--no-watch",
            "--duration",
            "1s",
        )
    assert ran.code == 2
    text = ran.err.strip().splitlines()[-1]
    assert "open files" in text
    assert "--processes" in text


async def test_a_refused_handshake_and_an_early_close(tmp_path: Path) -> None:
    """Both are told by the first connection: exit 2."""
    async with FaultyServer(Faults(refuse=401)) as server:
        assert "answered 401" in line(await load(tmp_path, server.url()))
    async with FaultyServer(Faults(close=1008)) as server:
        assert "closed the first connection at once" in line(await load(tmp_path, server.url()))


async def test_an_untrusted_certificate(tmp_path: Path) -> None:
    """TLS is verified; the line says how to trust the CA."""
    async with FaultyServer(tls=True) as server:
        assert "certificate not accepted" in line(await load(tmp_path, server.url("/echo")))
        ran = await load(tmp_path, server.url("/echo"), *SHORT, "--ca", str(server.ca_file))
        assert ran.code == 0, ran


async def test_ctrl_c_ends_with_the_report(tmp_path: Path) -> None:
    """The first Ctrl-C ends the stages; what was seen is reported, and every message has its answer. Exit 130."""
    async with FaultyProcess() as server:
        process = await start(
            tmp_path,
            server.url("/echo"),
            "--connections",
            "5",
            "--duration",
            "60s",
            "--rate",
            "50",
            "--no-watch",
            "--json",
        )
        assert process.stderr is not None
        while b"00:0" not in await asyncio.wait_for(process.stderr.readline(), patient(20)):
            pass
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), patient(20))
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["verdict"] == "interrupted"
    assert 0 < report["totals"]["sent"] == report["totals"]["received"]
    assert report["lasted_s"] < 20


async def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    """The second Ctrl-C does not wait for a server that answers nothing any more."""
    async with FaultyProcess("stall:30/5") as server:
        process = await start(
            tmp_path, server.url("/echo"), "--connections", "5", "--duration", "60s", "--rate", "50", "--no-watch",
            "--protocol", "echo", "--json",
        )  # fmt: skip
        assert process.stderr is not None
        while b"00:0" not in await asyncio.wait_for(process.stderr.readline(), patient(20)):
            pass
        process.send_signal(signal.SIGINT)
        while b"stopping" not in await asyncio.wait_for(process.stderr.readline(), patient(20)):
            pass
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), patient(5))
    assert process.returncode in (1, 130)
    assert json.loads(out)["totals"]["opened"] >= 1


async def test_compare_two_runs(tmp_path: Path) -> None:
    """A run beside itself is no worse; beside one that stalls it is, and exit 1 says so."""
    async with FaultyProcess() as server:
        await load(tmp_path, server.url("/echo"), *SHORT, "--rate", "500", "--out", "a.json")
    async with FaultyProcess("stall:0.3/0.6") as server:
        await load(tmp_path, server.url("/echo"), *SHORT, "--rate", "500", "--out", "b.json")
    assert (await load(tmp_path, "compare", "a.json", "a.json")).code == 0
    worse = await load(tmp_path, "compare", "a.json", "b.json")
    assert worse.code == 1
    assert "round trip" in worse.out


async def test_the_scenarios_are_named(tmp_path: Path) -> None:
    """`load scenarios` lists what --scenario takes."""
    ran = await load(tmp_path, "scenarios")
    assert [text.split()[0] for text in ran.out.splitlines()][:4] == ["hold", "ramp", "stress", "spike"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk(tmp_path: Path) -> None:
    """What cannot be written, or printed, is one line each, and the verdict stands."""
    async with FaultyProcess() as server:
        with open("/dev/full", "wb") as full:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "trunkline", "load", server.url("/echo"), *SHORT, "--out", "/dev/full",
                cwd=tmp_path, env=environment(tmp_path), stdout=full, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, err = await asyncio.wait_for(process.communicate(), patient(60))
    assert process.returncode == 0
    assert "Traceback" not in err.decode()
    assert err.decode().count("could not be") == 2
