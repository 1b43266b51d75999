"""The balancers that are compared: our relay, our steering of a Traefik, and Traefik, HAProxy and nginx by themselves.

Each is set up as its own documentation shows for WebSockets, with no access log, and checks its backends' health twice
a second. Configurations are written to a directory of the benchmark's own.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import psutil
import yaml

from bench.errors import BenchError
from bench.servers import READY_TIMEOUT_S, Contender, Server, find_program, free_port
from trunkline.settings.sections import Settings
from trunkline.traefik.render.static import static_text

RELAY, STEERED = "relay", "Traefik with steering"
HAPROXY, NGINX, TRAEFIK = "HAProxy", "nginx", "Traefik"
LEASTCONN, LEAST_CONN = "HAProxy leastconn", "nginx least_conn"
STRATEGIES = ("wrr", "p2c", "leasttime")
WRR, P2C, LEASTTIME = (f"{TRAEFIK} {strategy}" for strategy in STRATEGIES)

CHECK_MS = 500
HEALTH = "/health"
FILES = 20_000
_HAPROXY_CONNECTIONS = 9_800
_RELOADED_TIMEOUT_S = 10.0


class Proxy(Server):
    """A running proxy; its figures are those of all its processes.

    Args:
        contender: what to start.
        reload: what makes it read its configuration again, given this object; returns when the new one counts.
    """

    def __init__(self, contender: Contender, reload: Callable[[Proxy], None] | None = None) -> None:
        self._reload = reload
        super().__init__(contender)

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        return []

    def cpu_s(self) -> float:
        if sys.platform == "linux":
            return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids)
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return sum(each.user + each.system for each in times)

    def private_dirty(self) -> int:
        """Bytes that it has written to and shares with nobody: what a connection adds is among them."""
        found = 0
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_Dirty:"):
                    found += int(line.split()[1]) * 1024
        return found

    def reload(self) -> None:
        """Make it read its configuration again."""
        if self._reload is not None:
            self._reload(self)

    def stop(self) -> None:
        left: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(self.pid).children(recursive=True)
        if self.name.startswith(TRAEFIK):
            # It would wait for open connections, and it has no children.
            self.kill()
        else:
            super().stop()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Steered(Proxy):
    """A Traefik that asks our balancer.

    Attributes:
        balancer_port: where that answers.
    """

    balancer_port = 0

    def check_picks(self, least: int) -> None:
        """Raise BenchError unless the balancer has given out so many picks: Traefik goes on by itself without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.balancer_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        picks = sum(
            float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("ws_balancer_picks_total{")
        )
        if picks < least:
            raise BenchError(f"of {least} connections through {self.name} {picks:.0f} were placed by the balancer")


@contextlib.contextmanager
def proxy(name: str, backends: Sequence[str], **options: Any) -> Iterator[Proxy]:
    """Run a proxy in front of `backends` (URLs) until the block ends.

    Args:
        name: one of the constants above.
        backends: URLs.
        options: of the function that starts this one.
    """
    kind, _, strategy = name.partition(" ")
    with TemporaryDirectory(prefix="bench-") as directory:
        place = Path(directory)
        if name == STEERED:
            with steered(place, backends, **options) as running:
                yield running
            return
        if kind == RELAY:
            running = Proxy(relay(backends, name=name, **options))
        elif kind == HAPROXY:
            running = Proxy(haproxy(place, backends, name=name, **options), _new_worker(signal.SIGUSR2))
        elif kind == NGINX:
            running = Proxy(nginx(place, backends, name=name, **options), _new_worker(signal.SIGHUP))
        else:
            health = options.pop("health", HEALTH)
            routes = plain_route("/", backends, strategy if strategy in STRATEGIES else "wrr", health)
            running = Proxy(traefik(place, routes, name=name, **options), _rewrite(place, routes))
        with running:
            yield running


def installed(*names: str) -> tuple[list[str], list[str]]:
    """Those that can be run here, and a sentence for each program that is missing."""
    found, missing = [], {}
    for name in names:
        program = None if name == RELAY else name.split()[0]
        if program is None or find_program(program) is not None:
            found.append(name)
        else:
            missing[program] = f"{program} is not installed: left out."
    for sentence in missing.values():
        print(f"  {sentence}", file=sys.stderr)
    return found, list(missing.values())


# --- ours -------------------------------------------------------------------------------------------------------------


def relay(
    backends: Sequence[str] = (),
    *,
    name: str = RELAY,
    files: int = FILES,
    arguments: Sequence[str] = (),
    python: str = sys.executable,
    **more: str,
) -> Contender:
    """`trunkline balance` as a relay.

    Args:
        backends: URLs.
        name: what tables call it.
        files: files that it may open.
        arguments: further ones of its command line.
        python: the interpreter of the environment that holds it.
        more: settings, as environment.
    """
    named = [word for url in backends for word in ("--backend", url)]
    # The limit is set before it starts: from it follows how many connections it takes.
    limited = ["/bin/sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
    start = [*limited, python, "-m", "trunkline", "balance", *named, *arguments]
    return Contender(
        name,
        lambda port: [*start, "--listen", f"127.0.0.1:{port}"],
        {
            "TRUNKLINE_BALANCER_ADMIN_PORT": str(free_port()),
            "TRUNKLINE_BALANCER_HEALTH_INTERVAL_MS": str(CHECK_MS),
            "TRUNKLINE_LOG_ACCESS": "false",
            **more,
        },
        ready_path="/healthz",
    )


@contextlib.contextmanager
def steered(
    directory: Path, backends: Sequence[str], *, cache_ttl: str = "30s", plain_path: str = "", **more: str
) -> Iterator[Steered]:
    """A Traefik by our static configuration, and the balancer that it asks.

    Args:
        directory: for its files.
        backends: URLs.
        cache_ttl: time between load reports.
        plain_path: prefix of paths that the same Traefik routes without asking; empty: none.
        more: settings of the balancer, as environment.
    """
    named = [word for url in backends for word in ("--backend", url)]
    balancer_port, fail_open_port, ping_port = free_port(), free_port(), free_port()
    balancer = Contender(
        "steering balancer",
        lambda port: [
            sys.executable, "-m", "trunkline", "balance", "--mode", "steer", "--cache-ttl", cache_ttl,
            "--listen", f"127.0.0.1:{port}", *named,
        ],
        {
            "TRUNKLINE_BALANCER_ADMIN_PORT": str(free_port()),
            "TRUNKLINE_BALANCER_HEALTH_INTERVAL_MS": str(CHECK_MS),
            "TRUNKLINE_TRAEFIK_HEALTH_INTERVAL_MS": str(CHECK_MS),
            "TRUNKLINE_TRAEFIK_FAIL_OPEN_PORT": str(fail_open_port),
            "TRUNKLINE_TRAEFIK_BALANCER_URL": f"http://127.0.0.1:{balancer_port}",
            "TRUNKLINE_LOG_ACCESS": "false",
            **more,
        },
        ready_path="/ready",
    )  # fmt: skip
    file = directory / "dynamic.yml"
    routes = plain_route(plain_path, backends) if plain_path else {}
    _write_dynamic(file, routes, 0)
    with Server(balancer, port=balancer_port):

        def command(port: int) -> list[str]:
            settings = Settings()
            section = msgspec.structs.replace(
                settings.traefik, host="127.0.0.1", http_port=port, fail_open_port=fail_open_port, ping_port=ping_port,
                balancer_url=f"http://127.0.0.1:{balancer_port}", poll_interval_ms=200, grace_timeout_ms=0,
                log_level="ERROR",
            )  # fmt: skip
            made = yaml.safe_load(static_text(msgspec.structs.replace(settings, traefik=section), file))
            made["providers"]["file"] = {"filename": str(file), "watch": True}
            (directory / "traefik.yml").write_text(yaml.safe_dump(made))
            return [_program(TRAEFIK), f"--configFile={directory / 'traefik.yml'}"]

        with Steered(Contender(STEERED, command, ready_path="/healthz"), _rewrite(directory, routes)) as running:
            running.balancer_port = balancer_port
            time.sleep(1.0)  # the balancer picks only servers that Traefik has had time to load
            yield running


# --- the others -------------------------------------------------------------------------------------------------------


def haproxy(
    directory: Path,
    backends: Sequence[str],
    *,
    name: str = LEASTCONN,
    threads: int = 0,
    master: bool = True,
    health: str = HEALTH,
) -> Contender:
    """HAProxy with leastconn.

    Args:
        directory: for its files.
        backends: URLs.
        name: what tables call it.
        threads: how many; 0: as many as it likes.
        master: with the master process that reloads need.
        health: path of the health check.
    """
    servers = "".join(f"  server s{i} {url.partition('//')[2]}\n" for i, url in enumerate(backends))
    file = directory / "haproxy.cfg"

    def command(port: int) -> list[str]:
        file.write_text(
            f"global\n  maxconn {_HAPROXY_CONNECTIONS}\n"
            + (f"  nbthread {threads}\n" if threads else "")
            + "defaults\n"
            "  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 1h\n"
            f"  option httpchk GET {health}\n  default-server check inter {CHECK_MS}ms fall 2 rise 1\n"
            f"frontend clients\n  bind 127.0.0.1:{port} backlog 4096\n  default_backend nodes\n"
            f"backend nodes\n  balance leastconn\n{servers}"
        )
        return [_program(HAPROXY), "-W" if master else "-db", "-f", str(file)]

    return Contender(name, command, ready_path="/healthz", last_signal=signal.SIGTERM)


def nginx(directory: Path, backends: Sequence[str], *, name: str = LEAST_CONN, workers: str = "auto") -> Contender:
    """An nginx with least_conn, its counts shared between its workers.

    Args:
        directory: for its files.
        backends: URLs.
        name: what tables call it.
        workers: how many worker processes.
    """
    servers = "".join(f"      server {url.partition('//')[2]};\n" for url in backends)
    # Started by root, its workers would be of a user who may not enter this directory.
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    kept = "".join(
        f"  {what}_temp_path {directory}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = directory / "nginx.conf"

    def command(port: int) -> list[str]:
        file.write_text(
            f"{user}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile {FILES};\n"
            f"pid {directory}/nginx.pid;\nerror_log stderr error;\nevents {{ worker_connections {FILES - 100}; }}\n"
            f"http {{\n  access_log off;\n{kept}"
            f"  upstream nodes {{\n      zone nodes 256k;\n      least_conn;\n{servers}  }}\n"
            f"  server {{\n    listen 127.0.0.1:{port} backlog=4096;\n    location / {{\n"
            "      proxy_pass http://nodes;\n      proxy_http_version 1.1;\n"
            '      proxy_set_header Upgrade $http_upgrade;\n      proxy_set_header Connection "upgrade";\n'
            "      proxy_set_header Host $host;\n      proxy_read_timeout 1h;\n      proxy_send_timeout 1h;\n"
            "    }\n  }\n}\n"
        )
        return [_program(NGINX), "-c", str(file), "-e", "stderr"]

    return Contender(name, command, ready_path="/healthz", last_signal=signal.SIGTERM)


def traefik(directory: Path, routes: Mapping[str, Any], *, name: str = TRAEFIK, one_core: bool = False) -> Contender:
    """Traefik balancing by itself.

    Args:
        directory: for its files.
        routes: its dynamic configuration.
        name: what tables call it.
        one_core: let it use one processor at a time.
    """
    _write_dynamic(directory / "dynamic.yml", routes, 0)

    def command(port: int) -> list[str]:
        file = directory / "traefik.yml"
        file.write_text(
            yaml.safe_dump(
                {
                    "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
                    "entryPoints": {"web": {"address": f"127.0.0.1:{port}"}},
                    "providers": {
                        "providersThrottleDuration": "0s",
                        "file": {"filename": str(directory / "dynamic.yml"), "watch": True},
                    },
                    "ping": {"manualRouting": True},
                    "log": {"level": "ERROR"},
                }
            )
        )
        return [_program(TRAEFIK), f"--configFile={file}"]

    return Contender(name, command, {"GOMAXPROCS": "1"} if one_core else {}, ready_path="/healthz")


# --- reloads ----------------------------------------------------------------------------------------------------------


def plain_route(prefix: str, backends: Sequence[str], strategy: str = "wrr", health: str = HEALTH) -> dict[str, Any]:
    """A dynamic configuration: Traefik balances paths below `prefix` by itself."""
    return {
        "routers": {
            "plain": {"rule": f"PathPrefix(`{prefix}`)", "entryPoints": ["web"], "service": "nodes", "priority": 20_000}
        },
        "services": {
            "nodes": {
                "loadBalancer": {
                    "strategy": strategy,
                    "servers": [{"url": url} for url in backends],
                    "healthCheck": {"path": health, "interval": f"{CHECK_MS}ms", "timeout": "2s"},
                }
            }
        },
    }


def _write_dynamic(file: Path, routes: Mapping[str, Any], version: int) -> None:
    """Write Traefik's dynamic file; the path of its version shows that it has been loaded, and is all that changes."""
    shows = {
        "rule": f"Path(`/loaded/{version}`)",
        "entryPoints": ["web"],
        "service": "ping@internal",
        "priority": 30_000,
    }
    whole = {**routes, "routers": {**routes.get("routers", {}), "loaded": shows}}
    beside = file.with_suffix(".new")
    beside.write_text(yaml.safe_dump({"http": whole}))
    beside.replace(file)


def _rewrite(directory: Path, routes: Mapping[str, Any]) -> Callable[[Proxy], None]:
    version = 0

    def reload(running: Proxy) -> None:
        nonlocal version
        version += 1
        _write_dynamic(directory / "dynamic.yml", routes, version)
        _until(lambda: _status(running, f"/loaded/{version}") == 200, f"{running.name} to load its new configuration")

    return reload


def _new_worker(number: signal.Signals) -> Callable[[Proxy], None]:
    def reload(running: Proxy) -> None:
        before = set(running.pids)
        os.kill(running.pid, number)
        _until(lambda: bool(set(running.pids) - before), f"{running.name} to start new workers")
        time.sleep(1.0)  # the old ones stop listening

    return reload


def _until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _RELOADED_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {_RELOADED_TIMEOUT_S:g} s in vain for {what}")
        time.sleep(0.02)


def _status(running: Proxy, path: str) -> int:
    try:
        with socket.create_connection(running.address, timeout=READY_TIMEOUT_S) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return int(sock.recv(4096).split(b" ", 2)[1])
    except (OSError, IndexError):
        return 0


def _program(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path
