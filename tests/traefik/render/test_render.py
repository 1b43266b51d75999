"""What is rendered for Traefik from which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support.command_line import refusal
from trunkline.cli.traefik import app
from trunkline.errors import SettingsError
from trunkline.settings.balancer import BackendEntry, BasicUser, GroupEntry, RouteEntry
from trunkline.settings.quantities import go_duration
from trunkline.settings.sections import BalancerSettings, Settings, TraefikSettings
from trunkline.traefik.render import dynamic as render
from trunkline.traefik.render.dynamic import ServerView, dynamic, file_dynamic, rule_of
from trunkline.traefik.render.static import dynamic_text, static_text

BACKENDS = (BackendEntry("http://10.0.0.1:3001"), BackendEntry("ws://10.0.0.2:3001"))


def settings_of(balancer: dict[str, Any] | None = None, **traefik: Any) -> Settings:
    return Settings(
        traefik=TraefikSettings(**{"steer": False, **traefik}),
        balancer=BalancerSettings(**{"backends": BACKENDS, **(balancer or {})}),
    )


def static_of(settings: Settings) -> Any:
    return yaml.safe_load(static_text(settings, Path("/etc/traefik/d.yml")))


def file_of(settings: Settings) -> Any:
    return yaml.safe_load(dynamic_text(file_dynamic(settings), "one", "two"))


def test_only_what_is_asked_for_is_written() -> None:
    """The defaults without steering: one entry point, servers, retry, and nothing else."""
    static, routing = static_of(settings_of()), file_of(settings_of())
    assert set(static) == {"entryPoints", "providers", "global", "log"}
    assert set(static["entryPoints"]) == {"web"}
    assert static["providers"] == {"file": {"filename": "/etc/traefik/d.yml", "watch": True}}
    assert set(routing) == {"http"}
    assert set(routing["http"]["middlewares"]) == {"trunkline-retry", "trunkline-0-rewrite"}
    balancer = routing["http"]["services"]["trunkline-nodes"]["loadBalancer"]
    assert balancer["servers"] == [{"url": "http://10.0.0.1:3001"}, {"url": "http://10.0.0.2:3001"}]
    assert balancer["sticky"]["cookie"]["secure"] is False


def test_steering_needs_no_file() -> None:
    """With steering everything comes over HTTP, so there is no file and no throttling."""
    settings = settings_of(steer=True, balancer_url="http://10.1.1.1:8080/", poll_interval_ms=250)
    static = static_of(settings)
    assert static["providers"] == {
        "providersThrottleDuration": "0s",
        "http": {"endpoint": "http://10.1.1.1:8080/traefik/dynamic", "pollInterval": "250ms", "pollTimeout": "2s"},
    }
    assert static["entryPoints"]["trunkline-fail-open"]["address"] == "127.0.0.1:8089"
    assert static["ping"] == {"entryPoint": "trunkline-fail-open"}
    assert file_of(settings) == {}


@pytest.mark.parametrize(("host", "address"), [("", ""), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_entry_points_for_clients_have_the_address_asked_for(host: str, address: str) -> None:
    """What clients reach listens where it was told to; what is not for them stays on loopback."""
    points = static_of(settings_of(host=host, https_port=443, ping_port=8083))["entryPoints"]
    assert points["web"]["address"] == f"{address}:80"
    assert points["websecure"]["address"] == f"{address}:443"
    assert points["ping"]["address"] == "127.0.0.1:8083"


def test_metrics_leave_loopback_when_asked_to() -> None:
    """Prometheus may be on another machine, or in another container."""
    for options, address in (
        ({}, "127.0.0.1:8082"),
        ({"metrics_host": ""}, ":8082"),
        ({"metrics_host": "::1"}, "[::1]:8082"),
    ):
        points = static_of(settings_of(metrics_port=8082, **options))["entryPoints"]
        assert points["metrics"]["address"] == address


def test_pick_stands_inside_retry_and_before_the_rewriting() -> None:
    """Each attempt asks anew, and the balancer sees the path of its own routes."""
    routing = dynamic(settings_of(steer=True), [ServerView("http://10.0.0.1:3001")])
    assert routing.http is not None
    assert routing.http.routers is not None
    assert routing.http.routers["trunkline-0"].middlewares == (
        "trunkline-retry",
        "trunkline-pick",
        "trunkline-0-rewrite",
    )


def test_routes_keep_their_order() -> None:
    """The first route that matches counts, whatever the length of its rule."""
    settings = settings_of({"routes": (RouteEntry("/a"), RouteEntry("/a/long/path/of/many/parts", host="h.test"))})
    routers = file_of(settings)["http"]["routers"]
    priorities = [routers[f"trunkline-{index}"]["priority"] for index in range(5)]
    assert priorities == sorted(priorities, reverse=True)
    assert len(set(priorities)) == 5


@pytest.mark.parametrize(
    ("route", "domain", "rule"),
    [
        (RouteEntry("/"), "", "PathPrefix(`/`)"),
        (RouteEntry("/api/"), "", "(Path(`/api`) || PathPrefix(`/api/`))"),
        (RouteEntry("/"), "d.test", "Host(`d.test`) && PathPrefix(`/`)"),
        (RouteEntry("/", host="h.test"), "d.test", "Host(`h.test`) && PathPrefix(`/`)"),
        (RouteEntry("/", host="*.h.test"), "", r"HostRegexp(`^.+\.h\.test$`) && PathPrefix(`/`)"),
        (RouteEntry("/", host="*.H.test"), "", r"HostRegexp(`^.+\.h\.test$`) && PathPrefix(`/`)"),
        (RouteEntry("/"), "*", "PathPrefix(`/`)"),
    ],
)
def test_rules(route: RouteEntry, domain: str, rule: str) -> None:
    """Whole parts of paths, hosts before the domain, and all hosts below one."""
    assert rule_of(route, domain) == rule


def test_a_balancer_on_any_free_port() -> None:
    """Traefik cannot be told a port that nobody knows yet; an address of its own can be."""
    with pytest.raises(SettingsError, match=r"balancer\.port"):
        dynamic(settings_of({"port": 0}, steer=True), [])
    assert dynamic(settings_of({"port": 0}, steer=True, balancer_url="http://10.0.0.1:1"), []).http is not None


def test_hosts_on_loopback() -> None:
    """There routes without a host serve names of loopback and of the operator alone; what names a host stays."""
    routes = (RouteEntry("/a"), RouteEntry("/b", host="h.test"), RouteEntry("/c", host="*"))
    balancer = {"routes": routes, "hosts": ("Own.test", "*.parts.test", "[fd00::1]")}
    names = r"localhost|.+\.localhost|127(\.[0-9]+){3}|::1|own\.test|.+\.parts\.test|fd00::1"
    own = rf"(HostRegexp(`^\[?({names})\]?\.?$`) || HeaderRegexp(`X-Forwarded-For`, `.`))"
    for host in ("127.0.0.1", "::1", "localhost"):
        routers = file_of(settings_of(balancer, host=host))["http"]["routers"]
        assert routers["trunkline-0"]["rule"] == f"{own} && (Path(`/a`) || PathPrefix(`/a/`))"
        assert routers["trunkline-1"]["rule"] == "Host(`h.test`) && (Path(`/b`) || PathPrefix(`/b/`))"
        assert routers["trunkline-2"]["rule"] == f"{own} && (Path(`/c`) || PathPrefix(`/c/`))"
    for anything in (settings_of(balancer), settings_of({**balancer, "hosts": ("*",)}, host="127.0.0.1")):
        assert file_of(anything)["http"]["routers"]["trunkline-0"]["rule"] == "(Path(`/a`) || PathPrefix(`/a/`))"
    named = file_of(settings_of(host="127.0.0.1", domain="d.test"))["http"]["routers"]
    assert named["trunkline-2"]["rule"] == "Host(`d.test`) && PathPrefix(`/`)"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_who_refuses_a_host(host: str) -> None:
    """The balancer answers for hosts that a steered Traefik on loopback does not serve, behind everything else."""
    http = dynamic(settings_of(steer=True, host=host), []).http
    assert http is not None
    routers, middlewares = http.routers or {}, http.middlewares or {}
    assert (render.UNSERVED in routers) is (render.UNSERVED in middlewares) is (host == "127.0.0.1")
    if render.UNSERVED in routers:
        assert min(router.priority or 0 for router in routers.values()) == routers[render.UNSERVED].priority == 1


def test_weights_are_whole_numbers_and_zero_is_left_out() -> None:
    """Unequal weights take wrr in whole numbers; who has none is not published."""
    servers = [ServerView("http://a:1", 1.0), ServerView("http://b:1", 0.25), ServerView("http://c:1", 0.0)]
    routing = dynamic(settings_of(), servers)
    assert routing.http is not None
    assert routing.http.services is not None
    balancer = routing.http.services["trunkline-nodes"].load_balancer
    assert balancer is not None
    assert [(server.url, server.weight) for server in balancer.servers] == [("http://a:1", 100), ("http://b:1", 25)]
    assert balancer.strategy == "wrr"


def test_a_dead_server_is_no_magnet() -> None:
    """The strategy that prefers the server with the fewest connections needs a health check."""
    with_check = file_of(settings_of())["http"]["services"]["trunkline-nodes"]["loadBalancer"]
    without = file_of(settings_of(health_path=""))["http"]["services"]["trunkline-nodes"]["loadBalancer"]
    assert (with_check["strategy"], without["strategy"]) == ("p2c", "wrr")


def test_groups_split_by_weight_and_an_empty_one_gets_nothing() -> None:
    """Each group is a service of its own; a group without servers would answer 503 to its share."""
    backends = (BackendEntry("http://a:1", group="blue"), BackendEntry("http://b:1", group="green"))
    groups = (GroupEntry("blue", 90), GroupEntry("green", 10), GroupEntry("grey", 5), GroupEntry("off", 0))
    services = file_of(settings_of({"backends": backends, "groups": groups}))["http"]["services"]
    assert services["trunkline-nodes"]["weighted"]["services"] == [
        {"name": "trunkline-nodes-blue", "weight": 90},
        {"name": "trunkline-nodes-green", "weight": 10},
    ]
    cookie = services["trunkline-nodes"]["weighted"]["sticky"]["cookie"]
    assert cookie["name"] == "trunkline_lb_group"


def test_pools_have_services_of_their_own() -> None:
    """A route leads to the servers of its pool; names that lose signs stay apart."""
    backends = (*BACKENDS, BackendEntry("http://c:1", pool="a b"), BackendEntry("http://d:1", pool="a_b"))
    routes = (RouteEntry("/one", pool="a b"), RouteEntry("/two", pool="a_b"))
    http = file_of(settings_of({"backends": backends, "routes": routes}))["http"]
    one, two = (http["services"][http["routers"][f"trunkline-{index}"]["service"]] for index in (0, 1))
    assert one["loadBalancer"]["servers"] == [{"url": "http://c:1"}]
    assert two["loadBalancer"]["servers"] == [{"url": "http://d:1"}]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (settings_of(acme_email="a@b.test"), "traefik.https_port"),
        (settings_of(acme_email="a@b.test", https_port=443), "traefik.domain"),
        (settings_of(acme_email="a@b.test", https_port=443, domain="*.b.test"), "traefik.domain"),
        (settings_of(same_site="none"), "traefik.same_site"),
        (settings_of(sticky_cookie="__secure-lb"), "traefik.sticky_cookie"),
        (settings_of(cert_file=Path("c.pem")), "traefik.key_file"),
        (settings_of(dashboard_host="d.test"), "traefik.dashboard_users"),
        (settings_of(metrics_port=80), "traefik.metrics_port"),
        (settings_of(http_port=0), "traefik.http_port"),
        (settings_of(steer=True, fail_open_port=0), "traefik.fail_open_port"),
        (settings_of({"backends": ()}), "balancer.backends"),
        (settings_of({"groups": (GroupEntry("blue", 1),)}), "balancer.backends[0].group"),
    ],
)
def test_what_cannot_be_is_named(settings: Settings, key: str) -> None:
    """Settings that exclude each other are refused by their names."""
    with pytest.raises(SettingsError) as caught:
        static_of(settings)
    assert caught.value.key == key


@given(st.integers(min_value=1, max_value=86_400_000))
def test_durations_lose_nothing(milliseconds: int) -> None:
    """A time written for Traefik is the time that was set."""
    text = go_duration(milliseconds)
    number = int(text.removesuffix("ms") if text.endswith("ms") else text.removesuffix("s"))
    assert number * (1 if text.endswith("ms") else 1000) == milliseconds


@given(st.floats(min_value=0.0001, max_value=100_000, allow_nan=False))
def test_a_rate_never_becomes_no_limit(rate: float) -> None:
    """Traefik takes whole numbers, of which 0 is no limit: every rate stays one, and near what was set."""
    routing = dynamic(settings_of(rate_per_s=rate), [])
    assert routing.http is not None
    assert routing.http.middlewares is not None
    limit = routing.http.middlewares["trunkline-rate"].rate_limit
    assert limit is not None
    seconds = {"1s": 1, "1m": 60, "1h": 3600}[limit.period or "1s"]
    assert limit.average >= 1
    assert abs(limit.average / seconds - rate) <= 0.5 / seconds or limit.average == 1


def test_equal_settings_give_equal_bytes() -> None:
    """Traefik reloads when the text changes, so nothing in it may vary."""
    servers = [ServerView("http://a:1"), ServerView("http://b:1")]
    settings = settings_of(steer=True, compress=True, rate_per_s=1.0)
    assert render.encode_json(dynamic(settings, servers)) == render.encode_json(dynamic(settings, list(servers)))


def test_command_writes_files_and_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without files two YAML documents are printed; with files they are written, each for its user alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.toml").write_text(
        '[traefik]\nsteer = false\ndashboard_host = "d.test"\n'
        'dashboard_users = [{name = "ops", hash = "$2y$05$x"}]\n[[balancer.backends]]\nurl = "http://a:1"\n'
    )
    runner = CliRunner()
    printed = runner.invoke(app, ["render", "--config", "t.toml"])
    assert printed.exit_code == 0
    static, routing = yaml.safe_load_all(printed.stdout)
    assert "entryPoints" in static
    assert "http" in routing
    assert printed.stdout.startswith("# Static configuration of Traefik")
    written = runner.invoke(
        app, ["render", "--config", "t.toml", "--static", "s.yml", "--dynamic", "d.yml"], catch_exceptions=False
    )
    assert written.exit_code == 0
    assert written.stdout == ""
    assert yaml.safe_load((tmp_path / "s.yml").read_text())["providers"]["file"]["filename"] == str(tmp_path / "d.yml")
    assert yaml.safe_load((tmp_path / "d.yml").read_text()) == routing
    assert (tmp_path / "d.yml").stat().st_mode & 0o077 == 0
    assert BasicUser("ops", "$2y$05$x").hash in (tmp_path / "d.yml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.yml", "s.yml", "t.toml"]


@pytest.mark.parametrize(
    "line",
    [
        'domain = "https://a.test"', 'domain = "a.test:443"', 'domain = "a`) || Host(`b"', 'dashboard_host = "d test"',
        'balancer_url = "nonsense"', 'forward_auth = "auth:80"', 'acme_ca_server = "ca"', 'health_path = "health"',
        'sticky_cookie = "a b;c"',
    ],
)  # fmt: skip
def test_what_traefik_would_not_understand_is_refused_here(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Traefik would start, and answer 404 or 500 to everybody: the setting is named instead."""
    file = tmp_path / "t.toml"
    file.write_text(f"[traefik]\n{line}\n")
    error = refusal(f"traefik render --config {file}", monkeypatch, capsys)
    assert f"traefik.{line.partition(' ')[0]}" in error


def test_command_names_bad_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that cannot be used ends with code 2 and one line."""
    file = tmp_path / "t.toml"
    file.write_text("[traefik]\nsteer = false\n")
    assert "balancer.backends" in refusal(f"traefik render --config {file}", monkeypatch, capsys)
