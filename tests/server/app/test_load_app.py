"""What a user sees whose application cannot be imported: the fault, and the user's own frames alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trunkline.errors import StartError
from trunkline.server.app.load_app import load_app

SYNTAX = "def broken(:\n"
FAULT = "def f():\n    return 1 / 0\n\nf()\n"


@pytest.mark.parametrize(
    ("files", "brief", "frames"),
    [
        ({"app_a.py": SYNTAX}, "SyntaxError: invalid syntax (app_a.py, line 1)", ["app_a.py:1"]),
        (
            {"app_b.py": "import app_c\n", "app_c.py": SYNTAX},
            "SyntaxError: invalid syntax (app_c.py, line 1)",
            ["app_b.py:1", "app_c.py:1"],
        ),
        ({"app_d.py": FAULT}, "ZeroDivisionError: division by zero", ["app_d.py:4", "app_d.py:2"]),
        ({"app_e.py": "import no_such\n"}, "ModuleNotFoundError: No module named 'no_such'", ["app_e.py:1"]),
        ({"app_f/live.py": FAULT, "app_f/__init__.py": ""}, "ZeroDivisionError", ["live.py:4", "live.py:2"]),
    ],
    ids=["syntax", "syntax below", "fault", "missing dependency", "package"],
)
def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], brief: str, frames: list[str]
) -> None:
    """The first line says what it is; no frame of Trunkline or of the import system stands in the trace."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = next(iter(files)).removesuffix(".py").replace("/", ".")
    with pytest.raises(StartError) as caught:
        load_app(f"{name}:app")
    text = str(caught.value)
    assert text.startswith(f"the module {name!r} cannot be imported: {brief}")
    assert [f"{Path(file).name}:{line}" for file, line in re.findall(r'File "(.+?)", line (\d+)', text)] == frames
