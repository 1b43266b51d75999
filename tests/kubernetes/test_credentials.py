"""Tokens that are renewed: by a file, and by a program."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trunkline.kubernetes.credentials import FileToken, ProgramToken
from trunkline.kubernetes.failures import ApiFailed

COUNTS = """
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
count = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(count))
print(json.dumps({"status": {"token": f"t{count}", **json.loads(sys.argv[2])}}))
"""


def counting(tmp_path: Path, **status: str) -> ProgramToken:
    """Hands out t1, then t2."""
    command = (sys.executable, "-c", COUNTS, str(tmp_path / "count"), json.dumps(status))
    return ProgramToken(command, {}, "client.authentication.k8s.io/v1")


async def test_a_program_runs_again_when_its_token_is_refused(tmp_path: Path) -> None:
    """Otherwise the token is kept; several requests that were refused at once run it once."""
    program = counting(tmp_path)
    first = await program.token()
    assert (await program.token()).reveal() == first.reveal() == "t1"
    assert await program.refused(first)
    assert await program.refused(first)
    assert (await program.token()).reveal() == "t2"


@pytest.mark.parametrize(
    ("ends", "tokens"), [("2000-01-01T00:00:00Z", ["t1", "t2"]), ("2999-01-01T00:00:00Z", ["t1"] * 2)]
)
async def test_a_program_runs_again_before_its_token_ends(tmp_path: Path, ends: str, tokens: list[str]) -> None:
    program = counting(tmp_path, expirationTimestamp=ends)
    assert [(await program.token()).reveal() for _ in range(2)] == tokens


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (
            ("no-such-program",),
            "no-such-program, which hands out credentials, cannot run: No such file or directory. Hint",
        ),
        ((sys.executable, "-c", "raise SystemExit(3)"), "handed out no credentials and ended with 3. Hint"),
        ((sys.executable, "-c", "print('t0ken')"), "printed no ExecCredential"),
        ((sys.executable, "-c", "print('{\"status\":{}}')"), "an ExecCredential without a token"),
    ],
)
async def test_a_program_that_gives_no_token_is_named(command: tuple[str, ...], why: str) -> None:
    with pytest.raises(ApiFailed) as failed:
        await ProgramToken(command, {}, "v1", "Hint").token()
    assert why in str(failed.value)
    assert "t0ken" not in str(failed.value)


async def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.kubernetes.credentials.PROGRAM_S", 0.1)
    program = ProgramToken((sys.executable, "-c", "import time; time.sleep(60)"), {}, "v1")
    with pytest.raises(ApiFailed, match=r"handed out no credentials within 0\.1 s"):
        await program.token()


@pytest.mark.parametrize("content", ["", " \n", "two\nlines", "tök"])
async def test_a_file_without_a_token_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ApiFailed, match="holds no token"):
        await FileToken(tmp_path / "token").token()
    with pytest.raises(ApiFailed, match="missing cannot be read: No such file"):
        await FileToken(tmp_path / "missing").token()
