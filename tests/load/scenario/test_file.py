"""Scenario files: what they mean, and what is said of those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support import ROOT
from trunkline.errors import SettingsError
from trunkline.load.model.plan import Disturbance, Scenario, Stage, Step, Traffic
from trunkline.load.scenario.choice import builtin
from trunkline.load.scenario.file import MAX_BYTES, NAMES, load_scenario
from trunkline.load.scenario.scaling import Size

FLOW = "async def flow(session):\n    await session.send('hi')\n"


def load(folder: Path, text: str, name: str = "own.toml") -> Scenario:
    (folder / name).write_text(text)
    return load_scenario(folder / name).scenario


def fault(folder: Path, text: str | bytes, name: str = "own.toml") -> SettingsError:
    """The error of a file with that text; it is one line, and begins with what is wrong."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as caught:
        load_scenario(folder / name)
    assert "\n" not in str(caught.value)
    return caught.value


def line(error: SettingsError) -> int | None:
    """The line that an error names."""
    found = error.source.rpartition(" line ")[2]
    return int(found) if found.isdigit() else None


# --- what files mean --------------------------------------------------------------------------------------------------


def test_every_key_of_toml(tmp_path: Path):
    """A file with every key there is becomes the plan that it describes."""
    scenario = load(
        tmp_path,
        """
        name = "checkout"
        description = "what a shop does"
        protocol = "steps"
        thresholds = ["connect_p95<2s"]
        expected_errors = ["UNAVAILABLE"]
        reconnect = false
        [[stages]]
        duration = "1m30s"
        connections = 100
        name = "rise"
        [[stages]]
        duration = 0.5
        connections = 50
        [traffic]
        rate = 10
        rate_each = 0.5
        message_bytes = "1KiB"
        arrivals = "poisson"
        channels = 5
        subscribe_each = 2
        slow_share = 0.25
        slow_bytes_per_s = "2kB"
        abuse_share = 0.5
        abuse_rate_each = 100
        [[disturbances]]
        at = "20s"
        share = 0.3
        action = "close"
        away = "500ms"
        spread = 1
        [[steps]]
        send = '{"type":"message","id":{n},"text":"hi"}'
        expect = "message_response"
        timeout = "2s"
        pause = "250ms"
        [[steps]]
        expect = "/^bye/"
        """,
    )
    assert scenario == Scenario(
        "checkout",
        (Stage(90, 100, "rise"), Stage(0.5, 50)),
        protocol="steps",
        traffic=Traffic(10, 0.5, 1024, "poisson", 5, 2, 0.25, 2000, 0.5, 100),
        disturbances=(Disturbance(20, 0.3, "close", 0.5, 1),),
        steps=(
            Step('{"type":"message","id":{n},"text":"hi"}', "message_response", 2, 0.25),
            Step(expect="/^bye/"),
        ),
        thresholds=("connect_p95<2s",),
        expected_errors=("UNAVAILABLE",),
        reconnect=False,
        description="what a shop does",
    )


def test_the_least_that_a_file_can_say(tmp_path: Path):
    """The name is the file's, and everything else that is left out is the default; a byte order mark is no fault."""
    text = "﻿stages = [{duration = 5, connections = 3}]"
    assert load(tmp_path, text, "evening.TOML") == Scenario("evening", (Stage(5, 3),))


def test_steps_make_the_protocol(tmp_path: Path):
    """A file with steps need not say that its protocol is steps."""
    text = 'stages = [{duration = 5, connections = 3}]\n[[steps]]\nsend = "hi"'
    assert load(tmp_path, text).protocol == "steps"


def test_python_is_read_and_not_run(tmp_path: Path):
    """The scenario of a Python file is its literal, its flow is its text, and nothing in it happens."""
    text = f"""
import somewhere_that_is_not
(open({str(tmp_path / "ran")!r}, "w"))
SCENARIO: dict = {{"stages": [{{"duration": "10s", "connections": 5}}], "traffic": {{"rate": 3}}, "name": "mine"}}
{FLOW}"""
    (tmp_path / "shop.py").write_text(text)
    scenario, source = load_scenario(tmp_path / "shop.py")
    assert scenario == Scenario("mine", (Stage(10, 5),), protocol="python", flow="shop.py", traffic=Traffic(rate=3))
    assert source == text
    assert not (tmp_path / "ran").exists()


def test_python_alone_has_the_default_stages(tmp_path: Path):
    """A file with a flow and nothing else is a scenario."""
    scenario = load(tmp_path, FLOW, "shop.py")
    assert (scenario.name, scenario.stages) == ("shop", builtin("hold", Size()).stages)


def test_the_documented_files(tmp_path: Path):
    """Every file in the documentation loads, and the one of a built-in scenario says just what that one is."""
    text = (ROOT / "docs" / "load-scenarios.md").read_text()
    own, built_in = [], {}
    for block in text.split("```")[1::2]:
        language, _, content = block.partition("\n")
        if language in ("toml", "python"):
            scenario = load(tmp_path, content, "own.py" if language == "python" else "own.toml")
            if scenario.name in NAMES:
                built_in[scenario.name] = scenario
            else:
                own.append(scenario.protocol)
    assert built_in == {name: replace(builtin(name, Size()), description="") for name in NAMES}
    assert sorted(own) == ["python", "steps", "steps"]


# --- what is said of those that cannot be used ------------------------------------------------------------------------

GOOD = "[[stages]]\nduration = 10\nconnections = 5\n"


@pytest.mark.parametrize(
    ("text", "key", "at_line", "words"),
    [
        # TOML itself
        ("a = [1,\n2", "scenario", 2, "valid TOML"),
        ("[[stages]]\nduration = 5x\n", "scenario", 2, "valid TOML"),
        ("name = 'a'\nname = 'b'\n", "scenario", 2, "valid TOML"),
        # Deeper than any limit of recursion, which other programs in the process may have raised.
        ("x = " + "[" * 100_000, "scenario", None, "valid TOML"),
        ("x = " + "9" * 5000, "scenario", None, "valid TOML"),
        # keys
        (GOOD + "conections = 5\n", "stages[0].conections", 4, "did you mean connections?"),
        (GOOD + "duration_s = 5\n", "stages[0].duration_s", 4, "did you mean duration?"),
        (GOOD + "[trafic]\nrate = 1\n", "trafic", 4, "did you mean traffic?"),
        (GOOD + "[traffic]\n'rate each' = 1\n", "traffic.rate each", 5, "did you mean rate_each?"),
        ("flow = 'x.py'\n" + GOOD, "flow", 1, "no such key"),
        # stages
        ("name = 'x'\n", "stages", None, "at least one stage"),
        ("", "stages", None, "at least one stage"),
        ("stages = []\n", "stages", 1, "1 to 1,000 stages"),
        ("stages = 5\n", "stages", 1, "list of tables"),
        ("[stages]\nduration = 5\n", "stages", 1, "list of tables"),
        ("stages = [5]\n", "stages[0]", 1, "must be a table"),
        (GOOD + "[[stages]]\nduration = 3\n", "stages[1].connections", 4, "missing"),
        (GOOD + "[[stages]]\n\nduration = 'fast'\nconnections = 1", "stages[1].duration", 6, "'fast' cannot be used"),
        (GOOD.replace("10", "-1"), "stages[0].duration", 2, "from 0 to 1,000,000"),
        (GOOD.replace("10", "nan"), "stages[0].duration", 2, "from 0 to 1,000,000"),
        (GOOD.replace("10", "inf"), "stages[0].duration", 2, "from 0 to 1,000,000"),
        (GOOD.replace("10", "true"), "stages[0].duration", 2, '"5m"'),
        (GOOD.replace("10", "'30'"), "stages[0].duration", 2, '"5m"'),
        (GOOD.replace("5", "5.5"), "stages[0].connections", 3, "whole number from 0"),
        (GOOD.replace("5", "'5'"), "stages[0].connections", 3, "whole number from 0"),
        (GOOD.replace("5", "-5"), "stages[0].connections", 3, "whole number from 0"),
        (GOOD.replace("5", "0"), "stages", 1, "no stage has any connections"),
        (GOOD.replace("10", "0"), "stages", 1, "take no time"),
        (GOOD + f"name = '{'x' * 41}'\n", "stages[0].name", 4, "text of 0 to 40"),
        # the rest
        ("name = ''\n" + GOOD, "name", 1, "text of 1 to 40"),
        ("protocol = 'ecko'\n" + GOOD, "protocol", 1, "one of auto, echo"),
        ("protocol = 'python'\n" + GOOD, "protocol", 1, '".py"'),
        ("protocol = ' Python'\n" + GOOD, "protocol", 1, '".py"'),
        ("traffic = 5\n" + GOOD, "traffic", 1, "must be a table"),
        (GOOD + "[traffic]\n\nmessage_bytes = '12 parsec'\n", "traffic.message_bytes", 6, '"64KiB"'),
        (GOOD + "[traffic]\nmessage_bytes = '1B'\n", "traffic.message_bytes", 5, "from 40 to 16,777,216"),
        (GOOD + f"[traffic]\nmessage_bytes = '{'9' * 400}KiB'\n", "traffic.message_bytes", 5, '"64KiB"'),
        (GOOD + "traffic.slow_share = 2\n", "stages[0].traffic", 4, "no such key"),
        ("traffic.slow_share = 2\n" + GOOD, "traffic.slow_share", 1, "from 0 to 1"),
        ("thresholds = 'connect_p95<2s'\n" + GOOD, "thresholds", 1, "a list, each text"),
        ("thresholds = [\n  'connect_p95<2s',\n  5,\n]\n" + GOOD, "thresholds[1]", 3, "allowed: text"),
        ("thresholds = [\n  'connect_p95<2s',\n  'conect_p95<2s',\n]\n" + GOOD, "thresholds[1]", 3, "conect_p95"),
        ("reconnect = 'no'\n" + GOOD, "reconnect", 1, "true or false"),
        ("name = 2020-01-01\n" + GOOD, "name", 1, "text of 1 to 40"),
        (GOOD + "[[disturbances]]\nshare = 0.5\n", "disturbances[0].at", 4, "missing"),
        (GOOD + "[[disturbances]]\nat = 5\n[[disturbances]]\nat = '11s'\n", "disturbances[1].at", 7, "after 10 s"),
        (GOOD + "[[disturbances]]\nat = 5\naction = 'kill'\n", "disturbances[0].action", 6, "one of close, drop"),
        # steps
        ("protocol = 'echo'\n" + GOOD + "[[steps]]\nsend = 'x'\n", "protocol", 1, '"steps"'),
        ("protocol = 'steps'\n" + GOOD, "protocol", 1, "at least one step"),
        (GOOD + "[[steps]]\ntimeout = 0\n", "steps[0].timeout", 5, "above 0"),
        (GOOD + "[[steps]]\nexpect = '/(/'\n", "steps[0].expect", 5, "regular expression"),
    ],
)
def test_bad_toml_is_told_with_field_and_line(tmp_path: Path, text: str, key: str, at_line: int | None, words: str):
    """What is wrong, where, and what would be right."""
    error = fault(tmp_path, text)
    assert (error.key, line(error)) == (key, at_line), str(error)
    assert words in str(error)
    assert "own.toml" in str(error)


@pytest.mark.parametrize(
    ("text", "key", "at_line", "words"),
    [
        ("x = 1\nasync def flow(session:\n    pass\n", "scenario", 2, "valid Python"),
        ("x = '\0'\n", "scenario", None, "valid Python"),
        ("x = " + "(" * 5000, "scenario", 1, "valid Python"),
        ("x = 1\n", "flow", None, "async def flow(session):"),
        ("def flow(session):\n    pass\n", "flow", 1, "must be async"),
        ("\nasync def flow():\n    pass\n", "flow", 2, "one argument"),
        ("async def flow(session, other):\n    pass\n", "flow", 1, "one argument"),
        ("async def flow(session, *, other):\n    pass\n", "flow", 1, "one argument"),
        (FLOW + "SCENARIO = make()\n", "SCENARIO", 3, "written out"),
        (FLOW + "SCENARIO = {'a': [1], **more}\n", "SCENARIO", 3, "written out"),
        (FLOW + "SCENARIO = {[]: 1}\n", "SCENARIO", 3, "written out"),
        (FLOW + "SCENARIO = [1]\n", "SCENARIO", 3, "must be a table"),
        (FLOW + "SCENARIO = {\n 5: 1}\n", "5", 3, "no such key"),
        (FLOW + "SCENARIO = {\n  'steps': []}\n", "steps", 4, "no such key"),
        (FLOW + "SCENARIO = {\n  'traffic': {\n    'rate': 'x'}}\n", "traffic.rate", 5, "a number from 0"),
        (
            FLOW + "SCENARIO = {'stages': [\n {'duration': 5, 'connections': 1},\n {'duration': 'fast',\n"
            "  'connections': 1}]}\n", "stages[1].duration", 5, "'fast'",
        ),
        (FLOW + "SCENARIO = {'disturbances': [\n  {'at': 99}]}\n", "disturbances[0].at", 4, "after 30 s"),
    ],
)  # fmt: skip
def test_bad_python_is_told_with_field_and_line(tmp_path: Path, text: str, key: str, at_line: int | None, words: str):
    """The same holds for Python: the line is of the file, whoever reads it."""
    error = fault(tmp_path, text, "own.py")
    # Where a text that is too deep is given up differs between versions of Python.
    if "((((" not in text and "\0" not in text:
        assert (error.key, line(error)) == (key, at_line), str(error)
    assert words in str(error)
    assert "own.py" in str(error)


def test_flows_that_are_written_otherwise(tmp_path: Path):
    """Defaults and gatherings of arguments are fine as long as one argument will do; the last definition counts."""
    for head in ("session, other=1", "session, *, other=1", "*session", "session, /"):
        assert load(tmp_path, f"async def flow({head}):\n    pass\n", "own.py").protocol == "python"
    assert load(tmp_path, f"def flow():\n    pass\n{FLOW}", "own.py").protocol == "python"


def test_a_file_that_is_none(tmp_path: Path):
    """Missing files, folders, pipes, other endings and files that are too long are refused at once."""
    with pytest.raises(SettingsError, match="no such file"):
        load_scenario(tmp_path / "absent.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SettingsError, match="plain file"):
        load_scenario(tmp_path / "folder.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(SettingsError, match="plain file"):
        load_scenario(tmp_path / "pipe.toml")
    with pytest.raises(SettingsError, match=r"did you mean spike\?"):
        load_scenario(Path("spkie"))
    assert "at most 524,288 bytes" in str(fault(tmp_path, b"#" * (MAX_BYTES + 1)))
    assert load(tmp_path, GOOD + "#" * (MAX_BYTES - len(GOOD))).peak == 5


def test_a_file_that_is_no_text(tmp_path: Path):
    """Bytes that are no UTF-8 are told with their line."""
    error = fault(tmp_path, b"name = 'x'\nname = '\xff'\n")
    assert line(error) == 2
    assert "UTF-8" in str(error)
