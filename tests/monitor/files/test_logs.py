"""Filebeat, Elasticsearch and Kibana: the files have the shape that their documentation asks for.

None of these programs is here, so what is tested is what can be read off: names of options that the programs know,
references that resolve, retention, limits, and that no password is in any file.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import yaml

from tests.support.monitor.log_fields import types_of
from tests.support.patience import patient
from trunkline.logs import configure as log
from trunkline.monitor.files import logs
from trunkline.settings.sections import LogSettings, Settings

FILESTREAM = {
    "type", "id", "paths", "index", "file_identity", "prospector", "parsers", "processors",
    "close.on_state_change.removed",
}  # fmt: skip
"""Options of Filebeat's filestream input that its reference has and ours uses."""

APPLICATION, ERRORS = "logs-trunkline.app-default", "logs-trunkline.error-default"
SECRETS = ("elastic_password", "kibana_password", "filebeat_password")
SOME_TYPES = {
    "@timestamp": "date", "client.ip": "ip", "error.stack_trace": "wildcard", "event.duration": "long",
    "log.level": "keyword", "message": "match_only_text", "data_stream.dataset": "constant_keyword",
}  # fmt: skip
"""What the schema says of a field of each kind."""

NDJSON = {"target", "overwrite_keys", "expand_keys", "add_error_key", "message_key", "ignore_decoding_error"}


def settings(**log: Any) -> Settings:
    return Settings(log=msgspec.structs.replace(LogSettings(format="ecs", directory=Path("/srv/log")), **log))


def elastic(**log: Any) -> dict[str, str]:
    return logs.files(settings(**log))


def of_yaml(text: str) -> Any:
    return yaml.safe_load(text)


def test_all_files_are_what_their_names_say() -> None:
    """Every file lies under logs/ and parses as what its name says."""
    for path, text in elastic().items():
        assert path.startswith("logs/")
        assert text.endswith("\n")
        if path.endswith(".yml"):
            assert isinstance(of_yaml(text), dict), path
        elif path.endswith(".json"):
            assert isinstance(json.loads(text), dict), path


def test_filebeat_reads_ecs_lines_into_two_streams() -> None:
    """Two filestream inputs with ids of their own, options that exist, and the parser that ECS lines need."""
    config = of_yaml(elastic()["logs/filebeat.yml"])
    app, errors = config["filebeat.inputs"]
    for each in (app, errors):
        assert each["type"] == "filestream"
        assert each.keys() <= FILESTREAM
        [parser] = each["parsers"]
        assert parser["ndjson"].keys() <= NDJSON
        assert parser["ndjson"] == {"target": "", "overwrite_keys": True, "expand_keys": True, "add_error_key": True}
        # The identity by fingerprint needs the scanner's.
        assert each["prospector"]["scanner"]["fingerprint"]["enabled"]
    assert app["id"] != errors["id"]
    assert (app["index"], errors["index"]) == (APPLICATION, ERRORS)
    assert config["output.elasticsearch"]["password"] == "${FILEBEAT_PASSWORD}"
    assert not config["setup.ilm.enabled"]
    assert not config["setup.template.enabled"]


def taken(config: dict[str, Any], name: str) -> list[str]:
    """Ids of Filebeat's inputs that read the file of this name."""
    return [
        each["id"]
        for each in config["filebeat.inputs"]
        if any(fnmatch.fnmatch(f"{logs.DIRECTORY}/{name}", path) for path in each["paths"])
        and not any(re.search(left_out, name) for left_out in each["prospector"]["scanner"]["exclude_files"])
    ]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A directory of log files as a process leaves it after two rotations, one not compressed yet."""
    log.configure(settings(directory=tmp_path, rotate_bytes=1024).log, service="trunkline-node", stream=io.StringIO())
    for number in range(6):
        structlog.get_logger("trunkline.node").error("broken", number=number)
    log.close()
    structlog.reset_defaults()
    packed = sorted(tmp_path.glob("*.gz"))
    packed[0].with_suffix("").write_bytes(gzip.decompress(packed[0].read_bytes()))
    return tmp_path


def test_every_file_of_a_process_is_read_once(written: Path) -> None:
    """Each real log file belongs to one input; packed ones and locks to none."""
    filebeat = of_yaml(elastic()["logs/filebeat.yml"])
    names = {path.name for path in written.iterdir()}
    assert {"trunkline.log", "trunkline.error.log"} <= names
    assert any(name.endswith(".gz") for name in names)
    for name in names:
        kind = "error" if ".error." in name else "app"
        assert taken(filebeat, name) == ([f"trunkline-{kind}"] if name.endswith(".log") else []), name
    assert taken(filebeat, "trunkline-64.log") == ["trunkline-app"]


def test_a_line_is_longer_than_the_fingerprint(written: Path) -> None:
    """The first line alone makes a file known to Filebeat, and tells it from every other."""
    [length] = {
        each["prospector"]["scanner"]["fingerprint"]["length"]
        for each in of_yaml(elastic()["logs/filebeat.yml"])["filebeat.inputs"]
    }
    first = (written / "trunkline.log").read_bytes().split(b"\n")[0]
    assert length < len(first)
    assert b"@timestamp" in first[:length]


@pytest.mark.parametrize(("keep", "errors"), [(14, 30), (3, 90)])
def test_retention_is_that_of_the_files(keep: int, errors: int) -> None:
    """14 days and 30 for errors by default, in Elasticsearch; other settings are followed."""
    made = elastic() if (keep, errors) == (14, 30) else elastic(keep_days=keep, error_keep_days=errors)
    for kind, days in (("app", keep), ("error", errors)):
        phases = json.loads(made[f"logs/elasticsearch/ilm-{kind}.json"])["policy"]["phases"]
        assert phases["delete"] == {"min_age": f"{days}d", "actions": {"delete": {}}}
        assert phases["hot"]["actions"]["rollover"]["max_age"] == "1d"


def test_templates_give_every_field_its_type() -> None:
    """Each stream has a template with its policy; names are objects down to one type, never both."""
    for kind, stream in (("app", APPLICATION), ("error", ERRORS)):
        template = json.loads(elastic()[f"logs/elasticsearch/template-{kind}.json"])
        assert any(fnmatch.fnmatch(stream, pattern) for pattern in template["index_patterns"])
        assert template["data_stream"] == {}
        assert template["template"]["settings"]["index.lifecycle.name"] == f"trunkline-{kind}"
        types = types_of(elastic()[f"logs/elasticsearch/template-{kind}.json"])
        assert {name for name in SOME_TYPES if types[name] != SOME_TYPES[name]} == set()
        assert len(types) > 30
    assert not fnmatch.fnmatch(ERRORS, "logs-trunkline.app-*")


def test_containers_are_limited_and_closed_to_others() -> None:
    """Every service has a profile and a memory limit, ports are this machine's, and what is mounted exists."""
    made = elastic()
    compose = of_yaml(made["logs/compose.yml"])
    for name, service in compose["services"].items():
        assert len(service["profiles"]) == 1, name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert ":latest" not in service["image"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service.get("secrets", [])) <= set(compose.get("secrets", {}))
        assert set(service.get("depends_on", [])) <= set(compose["services"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                inside = f"logs/{source[2:]}"
                assert any(each == inside or each.startswith(f"{inside}/") for each in made), volume
            elif not source.startswith("$"):
                assert source in compose["volumes"], volume


def test_the_reference_ports_and_security() -> None:
    """Elasticsearch on 9200 asks for a password, Kibana is on 5601, and passwords come from files alone."""
    made = elastic()
    services = of_yaml(made["logs/compose.yml"])["services"]
    assert services["elasticsearch"]["ports"] == ["127.0.0.1:9200:9200"]
    assert services["elasticsearch"]["environment"]["xpack.security.enabled"] == "true"
    assert services["kibana"]["ports"] == ["127.0.0.1:5601:5601"]
    for path, text in made.items():
        for value in re.findall(r"(?im)password\"?[ \t]*[:=][ \t]*(.+)$", text):
            # A variable that is filled from a file within the container, or the setup script's own quoting.
            assert value.startswith(("${", "'${", '"%s"', '"$$(cat /run/secrets/')), f"{path}: {value}"
        assert "changeme" not in text


def test_the_log_directory_is_the_settings_one() -> None:
    """An absolute log.directory is mounted; without one a place is assumed, and the file says so."""
    assert "/srv/log}" in elastic()["logs/compose.yml"]
    other = elastic(directory=None, format="auto")["logs/compose.yml"]
    assert f"{logs.DIRECTORY}}}" in other
    assert 'the settings say "auto"' in other
    assert "change it first" not in elastic()["logs/compose.yml"]


def test_the_setup_script_is_bash_and_gives_no_password_away(tmp_path: Path) -> None:
    """Run with a stand-in for curl: all is sent once, passwords travel in files and bodies, never on a command line."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = elastic()["logs/elasticsearch/setup.sh"]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in SECRETS:
        (secrets / name).write_text(f'{name}-"q\\u\n')
    curl = tmp_path / "curl"
    curl.write_text(
        "#!/bin/bash\n"
        'printf "%s\\n" "$*" >> "$SEEN/arguments"\n'
        'while [ $# -gt 0 ]; do [ "$1" = -K ] && cat "$2" >> "$SEEN/options"; last=$1; shift; done\n'
        '[ "$last" = @- ] && { cat; echo; } >> "$SEEN/bodies"\n'
        "true\n"
    )
    curl.chmod(0o755)
    made = elastic()
    (tmp_path / "setup.sh").write_text(script)
    done = subprocess.run(
        ["bash", str(tmp_path / "setup.sh")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SEEN": str(tmp_path), "SECRETS": str(secrets)},
        capture_output=True, text=True, timeout=patient(30), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    arguments = (tmp_path / "arguments").read_text()
    assert "-q" + '"' not in arguments
    for name in SECRETS:
        assert f'{name}-"' not in arguments
    assert arguments.count("-X PUT") == 5
    for mentioned in re.findall(rf"@{re.escape(str(tmp_path))}/(\S+)", arguments):
        assert f"logs/elasticsearch/{mentioned}" in made
    user, kibana = (json.loads(line) for line in (tmp_path / "bodies").read_text().splitlines())
    assert user == {"password": 'filebeat_password-"q\\u', "roles": ["trunkline_filebeat"]}
    assert kibana == {"password": 'kibana_password-"q\\u'}
    assert r'user = "elastic:elastic_password-\"q\\u"' in (tmp_path / "options").read_text()
