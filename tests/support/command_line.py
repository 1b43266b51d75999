"""The command line within this process, from its words to its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from trunkline.cli import main


def refusal(words: str | Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run `trunkline` with these words; it must end with code 2 and print nothing but the error that is returned."""
    monkeypatch.setattr(sys, "argv", ["trunkline", *(words.split() if isinstance(words, str) else words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    return err
