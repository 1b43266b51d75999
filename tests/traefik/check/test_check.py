"""Which mistakes the checker names, on which line, and what it leaves alone."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support import ROOT
from trunkline.cli.traefik import app
from trunkline.traefik.check.documents import MAX_BYTES
from trunkline.traefik.check.findings import Finding
from trunkline.traefik.check.report import check_texts

ENTRY_POINTS = "entryPoints: {web: {address: ':80'}}\n"


def found(text: str, name: str = "a.yml") -> list[tuple[int, str]]:
    """Line and rule of each finding in one file."""
    return [(finding.line, finding.rule) for finding in check_texts([(name, dedent(text))]).findings]


def only(text: str, name: str = "a.yml") -> Finding:
    """The one finding in a file."""
    findings = check_texts([(name, dedent(text))]).findings
    assert len(findings) == 1, findings
    return findings[0]


def test_unknown_field_is_named_with_its_line_and_what_to_write() -> None:
    """The name, where it stands, that it voids the file, and what stands in its place."""
    finding = only(
        """\
        http:
          middlewares:
            again:
              retry:
                attempts: 4
                maxInterval: 1s
        """
    )
    assert (finding.line, finding.rule, finding.severity) == (6, "unknown-field", "error")
    assert "http.middlewares.again.retry.maxInterval" in finding.message
    assert "initialInterval" in finding.instead


@pytest.mark.parametrize(
    ("text", "name", "instead"),
    [
        (
            "http: {services: {s: {loadBalancer: {healthCheck: {path: /, interval: 5s, timeOuts: 1s}}}}}",
            "a.yml",
            "timeout",
        ),
        ("[http.services.s.loadBalancer]\nstickyy = {}\n", "a.toml", "sticky"),
        ("labels: ['traefik.http.routers.r.entrypoint=web']", "a.yml", "entryPoints"),
        ("labels: {traefik.http.services.s.loadbalancer.servers.port: 80}", "a.yml", "labels call it server"),
        ("labels: ['traefik.http.services.w.weighted.sticky.cookie=true']", "a.yml", "file provider"),
        ("services: {t: {image: 'traefik:v3.7', command: ['--entrypoint.web.address=:80']}}", "a.yml", "entryPoints"),
        ("services: {t: {image: traefik, environment: {TRAEFIK_LOGS_LEVEL: INFO}}}", "a.yml", "flags"),
        ("entryPoints: {web: {address: ':80'}}\naccesslogs: {}\n", "a.yml", "accessLog"),
    ],
)
def test_unknown_fields_in_every_form(text: str, name: str, instead: str) -> None:
    """Files, labels, flags and variables are held against the same table."""
    finding = only(text, name)
    assert finding.rule == "unknown-field"
    assert instead in finding.instead


def test_known_forms_are_left_alone() -> None:
    """Case, lists as text, options that stand alone, and flags without a value are as Traefik takes them."""
    assert (
        found(
            """\
        services:
          edge:
            image: docker.io/library/traefik:v3.7
            command: --ping --entrypoints.web.address=:80 --providers.docker.exposedbydefault=false --configFile=/x
            environment: [TRAEFIK_ENTRYPOINTS_my_own_ADDRESS=:81, TRAEFIK_METRICS_PROMETHEUS=true]
            volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
          app:
            image: app
            labels:
              traefik.enable: true
              traefik.http.routers.r.EntryPoints: web,my_own
              traefik.http.routers.r.tls.domains[0].main: a.test
              traefik.http.routers.r.middlewares: c@docker
              traefik.http.middlewares.c.compress: true
              traefik.http.services.s.loadbalancer.server.port: 80
              traefik.http.services.s.loadbalancer.sticky.cookie: true
              traefik.http.services.s.loadbalancer.sticky.cookie.name: a
              traefik.http.middlewares.x.plugin.mine.any.thing: 1
              com.example.other: "1"
        """
        )
        == []
    )


def test_other_programs_files_are_left_alone() -> None:
    """What is no configuration of Traefik is no mistake."""
    for text, name in (
        ("name: ci\non: push\njobs: {a: {steps: []}}\n", "ci.yml"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "k.yml"),
        ("[project]\nname = 'x'\n", "pyproject.toml"),
        ("plain text about traefik validate", "notes.md"),
        ("scrape_configs: [{job_name: t, static_configs: [{targets: ['traefik:8082']}]}]\nglobal: {}\n", "p.yml"),
    ):
        assert found(text, name) == []


def test_undefined_entry_points() -> None:
    """Metrics, ping, redirections, challenges and routers must name what entryPoints defines."""
    static = """\
        entryPoints:
          web:
            address: ":80"
            http: {redirections: {entryPoint: {to: websecur}}}
          websecure: {address: ":443"}
        ping: {entryPoint: ping}
        metrics: {prometheus: {entryPoint: metrics}}
        certificatesResolvers: {le: {acme: {httpChallenge: {entryPoint: http}}}}
        """
    assert found(static) == [(line, "undefined-entry-point") for line in (4, 6, 7, 8)]
    near = check_texts([("a.yml", dedent(static))]).findings[0]
    assert near.instead == "write websecure"
    router = "http: {routers: {r: {rule: 'PathPrefix(`/`)', service: api@internal, entryPoints: [web, wss]}}}\n"
    report = check_texts([("s.yml", ENTRY_POINTS), ("d.yml", router)])
    assert [(finding.file, finding.rule) for finding in report.findings] == [("d.yml", "undefined-entry-point")]
    assert found(router) == []
    assert found("ping: {entryPoint: ping}\n") == []


def test_without_entry_points_there_is_one_called_http() -> None:
    """A whole static configuration that defines none has Traefik's own alone."""
    text = "providers: {docker: {}}\nping:\n  entryPoint: ping\nmetrics: {prometheus: {entryPoint: http}}\n"
    assert found(text) == [(3, "undefined-entry-point")]


def test_undefined_names_count_when_the_set_is_complete() -> None:
    """With the static file given a missing middleware is an error, without it a warning; near names are told."""
    dynamic = """\
        http:
          routers:
            r: {rule: "PathPrefix(`/`)", service: nodez, middlewares: [other@docker, gone], tls: {certResolver: le}}
          services:
            nodes: {loadBalancer: {servers: [{url: "http://a:1"}]}}
        """
    report = check_texts([("d.yml", dedent(dynamic))])
    assert [(one.rule, one.severity) for one in report.findings] == [
        ("undefined-middleware", "warning"),
        ("undefined-service", "warning"),
    ]
    assert report.findings[1].instead == "write nodes"
    report = check_texts([("d.yml", dedent(dynamic)), ("s.yml", ENTRY_POINTS)])
    assert [(one.rule, one.severity) for one in report.findings] == [
        ("undefined-middleware", "error"),
        ("undefined-resolver", "error"),
        ("undefined-service", "error"),
    ]


def test_upgrade_headers_and_unexpanded_values() -> None:
    """Request headers that break or mean nothing are named; answers' headers and plain texts are not."""
    assert found(
        """\
        http:
          middlewares:
            m:
              headers:
                customRequestHeaders:
                  connection: Upgrade
                  Upgrade: websocket
                  X-User: "${user}"
                  X-Plain: "costs $5"
                customResponseHeaders:
                  X-Frame-Options: DENY
        """
    ) == [(6, "upgrade-headers"), (7, "upgrade-headers"), (8, "unexpanded-value")]
    label = "labels:\n  - 'traefik.http.middlewares.m.headers.customrequestheaders.X-Real-IP=$${CLIENT_IP}'\n"
    finding = only(label)
    assert (finding.line, finding.rule) == (2, "unexpanded-value")
    assert "'${CLIENT_IP}'" in finding.message
    assert "X-Real-Ip" in finding.instead
    assert found(label.replace("$$", "$")) == []


def test_tls_and_api_left_open() -> None:
    """Certificates that nobody checks and an API that anybody reads."""
    static = """\
        api:
          insecure: true
        serversTransport:
          insecureSkipVerify: true
        """
    assert found(static) == [(2, "insecure-api"), (4, "insecure-skip-verify")]
    compose = "services:\n  traefik:\n    image: traefik:v3\n    ports: ['8080:8080', '127.0.0.1:8080:8080', '80:80']\n"
    report = check_texts([("s.yml", dedent(static)), ("c.yml", compose)])
    assert [one.rule for one in report.findings if one.file == "c.yml"] == ["published-api"]
    assert found(compose) == []


def test_docker_sockets() -> None:
    """The proxy and the tools of Docker may have the socket, other services not."""
    assert found(
        """\
        services:
          edge: {image: "traefik:v3.7", volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]}
          guard: {image: tecnativa/docker-socket-proxy, volumes: ["/var/run/docker.sock:/var/run/docker.sock"]}
          app:
            image: app
            volumes:
              - data:/data
              - /var/run/docker.sock:/var/run/docker.sock:ro
              - {type: bind, source: /run/docker.sock, target: /x}
        """
    ) == [(8, "docker-socket"), (9, "docker-socket")]


def test_docker_socket_as_a_default_and_for_discovery() -> None:
    """A variable's default mounts it too; a balancer that is told to discover containers needs it."""
    volume = "volumes: ['${S:-/var/run/docker.sock}:/var/run/docker.sock']"
    assert found(f"services:\n  app:\n    image: a\n    {volume}\n") == [(4, "docker-socket")]
    told = "environment: [TRUNKLINE_BALANCER_DOCKER=unix:///var/run/docker.sock]"
    assert found(f"services:\n  app:\n    image: a\n    {volume}\n    {told}\n") == []


def test_health_checks() -> None:
    """No interval is 30 s; the message names the time until the failover; a short one is right."""
    text = "http: {services: {s: {loadBalancer: {servers: [{url: 'http://a:1'}], healthCheck: {path: /h%s}}}}}\n"
    assert "35 s" in only(text % "").message
    assert "62 s" in only(text % ", interval: 1m, timeout: 2s").message
    assert found(text % ", interval: 10s") == []
    assert found(text % ", interval: 5000ms") == []


def test_weights_and_services_that_lead_to_themselves() -> None:
    """A server without weight is removed; a share of 0 is right; a service cannot be its own child."""
    assert found(
        """\
        http:
          services:
            s:
              loadBalancer:
                servers:
                  - {url: "http://a:1", weight: 0}
                  - {url: "http://b:1", weight: -1}
                  - {url: "http://c:1", weight: 2}
            canary:
              weighted:
                services:
                  - {name: s, weight: 0}
                  - {name: canary, weight: 10}
        """
    ) == [(6, "weight"), (7, "weight"), (13, "own-child")]


def test_order_of_pick_and_retry() -> None:
    """Only a retry inside a pick is wrong."""
    text = """\
        http:
          routers:
            r: {rule: "PathPrefix(`/`)", service: api@internal, middlewares: %s}
          middlewares:
            again: {retry: {attempts: 3}}
            pick: {forwardAuth: {address: "http://a/place", authResponseHeaders: [Cookie]}}
            auth: {forwardAuth: {address: "http://a/auth", authResponseHeaders: [X-User]}}
        """
    assert found(text % "[auth, pick, again]") == [(3, "pick-outside-retry")]
    assert found(text % "[auth, again, pick]") == []


def test_strict_cookies() -> None:
    """Strict is named where hosts differ or are not shown, not where there is one host."""
    service = "http: {services: {s: {loadBalancer: {sticky: {cookie: {sameSite: strict}}}}}"
    assert "do not show" in only(service + "}\n").message
    routers = ", routers: {a: {rule: 'Host(`%s`)', service: s}, b: {rule: 'Host(`%s`)', service: s}}}\n"
    assert found(service + routers % ("a.test", "a.test")) == []
    assert "one site only if" in only(service + routers % ("page.a.test", "ws.a.test")).message
    assert "do not send" in only(service + routers % ("page.test", "ws.other")).message


def test_depth_without_a_trusted_proxy() -> None:
    """An address out of a header that was thrown away."""
    text = "http: {middlewares: {m: {rateLimit: {average: 1, sourceCriterion: {ipStrategy: {depth: 1}}}}}}\n"
    assert [one.severity for one in check_texts([("d.yml", text)]).findings] == ["warning"]
    assert [one.severity for one in check_texts([("d.yml", text), ("s.yml", ENTRY_POINTS)]).findings] == ["error"]
    trusting = "entryPoints: {web: {address: ':80', forwardedHeaders: {trustedIPs: [10.0.0.0/8]}}}\n"
    assert check_texts([("d.yml", text), ("s.yml", trusting)]).findings == ()


def test_conflicting_replicas() -> None:
    """Containers of one service with different labels lose it."""
    assert found(
        """\
        services:
          a:
            image: a
            labels: ["traefik.http.services.s.loadbalancer.server.port=1"]
          b:
            image: a
            labels: ["traefik.http.services.s.loadbalancer.server.port=2"]
          c:
            image: a
            labels: ["traefik.http.services.s.loadbalancer.server.port=1",
                     "traefik.http.services.s.loadbalancer.sticky.cookie=true"]
        """
    ) == [(10, "conflicting-labels")]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('sum(traefik_service_open_connections{service="a"})', "unknown-metric"),
        ('rate(traefik_service_requests_total{code!~"2.."}[5m])', "websocket-errors"),
        ('rate(traefik_service_requests_total{code !~ "2.*", service=~".*ws.*"}[5m])', "websocket-errors"),
        ('rate(traefik_service_requests_total{code!~"2..",protocol="http"}[5m])', None),
        ('rate(traefik_service_requests_total{code!~"2..",protocol!="websocket"}[5m])', None),
        ('rate(traefik_service_requests_total{code=~"5.."}[5m])', None),
        ('rate(traefik_service_requests_total{code!~"(2|3).."}[5m])', "websocket-errors"),
        ('rate(traefik_service_requests_total{code!~"[23]\\\\d+"}[5m])', "websocket-errors"),
        ('rate(traefik_service_requests_total{code!="200"}[5m])', "websocket-errors"),
        ('rate(traefik_service_requests_total{code!~"2..|0"}[5m])', None),
        ('rate(traefik_service_requests_total{code!~"5.."}[5m])', None),
        ('rate(http_requests_total{code!~"2.."}[5m])', None),
    ],
)
def test_queries(line: str, rule: str | None) -> None:
    """Queries are wrong wherever they stand: in a dashboard, a rule file, a text."""
    wanted = [rule] if rule else []
    dashboard = json.dumps({"panels": [{"targets": [{"expr": line}]}]}, indent=1)
    assert [rule for _, rule in found(dashboard, "d.json")] == wanted
    assert [rule for _, rule in found(f"groups:\n  - rules:\n      - expr: '{line}'\n", "r.yml")] == wanted
    assert [rule for _, rule in found(line, "q.promql")] == wanted


def test_scraped_nats() -> None:
    """nats-server has no /metrics on its monitoring port; an exporter and other paths are right."""
    assert found(
        """\
        scrape_configs:
          - job_name: nats
            static_configs:
              - targets:
                  - nats:8222
                  - exporter:7777
          - job_name: json
            metrics_path: /varz
            static_configs: [{targets: ["nats:8222"]}]
        """
    ) == [(5, "nats-metrics")]


def test_shell_snippets() -> None:
    """The command that does not exist, but not in comments."""
    assert found("# traefik validate\ndocker exec edge traefik validate\ntraefik version\n", "a.sh") == [
        (2, "traefik-validate")
    ]


def test_fences_have_the_lines_of_their_file() -> None:
    """Each fence is what it says it is; what one names another may define; prose is not read."""
    text = dedent(
        """\
        # Guide: traefik validate
        ```yaml
        ping:
          entryPoint: ping
        ```
        - a list
          ```yml
          entryPoints:
            web: {address: ":80"}
          ```
        ~~~bash
        traefik validate
        ~~~
        ```nginx
        location /ws { proxy_set_header Connection "upgrade"; }
        ```
        """
    )
    assert found(text, "guide.md") == [(4, "undefined-entry-point"), (12, "traefik-validate")]


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ("a: [1\nb: 2\n", "a.yml", 2),
        ("a = 1\nb = = 2\n", "a.toml", 2),
        ("a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 9}*a{n}]\n" for n in range(9)), "a.yml", None),
        ("[" * 500, "a.yml", None),
        ("[" * 100_000, "a.yml", 1),
        ("- " * 100_000, "a.yml", 1),
        ("a = " + "[" * 20_000, "a.toml", 1),
        ("http:\n  middlewares: {}\nhttp:\n  routers: {}\n", "a.yml", 3),
        ("http:\n  routers:\n{{ range $i := until 3 }}\n    r{{ $i }}:\n      rule: x\n{{ end }}\n", "a.yml", 4),
    ],
)
def test_what_cannot_be_parsed_is_told(text: str, name: str, line: int | None) -> None:
    """Broken and boundless texts end with a line and exit code 2."""
    report = check_texts([(name, text)])
    assert report.exit_code == 2
    assert report.findings[0].rule == "unreadable"
    assert line is None or report.findings[0].line == line


def test_a_name_may_stand_twice_in_json_and_in_what_is_merged() -> None:
    """JSON takes the last of two, a merged map is there to be overruled, and a guide may show two ways."""
    assert found("```yaml\na: 1\na: 2\n```\n", "a.md") == []
    assert found('{"a": 1, "a": 2}', "a.json") == []
    assert found("a: &x {k: 1}\nb:\n  <<: *x\n  k: 2\n", "a.yml") == []


def test_an_answer_in_a_text_is_no_configuration() -> None:
    """What a guide shows as an answer is left alone; broken YAML in it is told of."""
    assert found('```json\n{"status": "healthy" | "degraded"}\n```\n', "a.md") == []
    assert found("```yaml\na: [1\n```\n", "a.md") == [(3, "unreadable")]


@given(st.text(max_size=300), st.sampled_from(["a.yml", "a.toml", "a.json", "a.md", "a.sh", "a"]))
def test_any_text_is_survived(text: str, name: str) -> None:
    """Whatever a file holds, the checker answers."""
    assert check_texts([(name, text)]).exit_code in (0, 1, 2)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["http", "routers", "services", "loadBalancer", "servers", "sticky", "cookie", "middlewares"]
            )
            | st.text(max_size=6),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["http", "entryPoints", "services", "labels", "api", "tls"]), _VALUES))
def test_any_shape_is_survived(tree: dict[str, object]) -> None:
    """Known names in wrong shapes are findings at most."""
    assert check_texts([("a.json", json.dumps(tree))]).exit_code in (0, 1)


def test_command_tells_and_exits(tmp_path: Path) -> None:
    """0 without errors, 1 with, 2 when something could not be read; JSON for machines; no colours in a pipe."""
    clean, wrong = tmp_path / "clean.yml", tmp_path / "wrong.yml"
    clean.write_text(ENTRY_POINTS)
    wrong.write_text("api: {insecure: true}\n")
    runner = CliRunner()
    assert runner.invoke(app, ["check", str(clean)]).exit_code == 0
    answer = runner.invoke(app, ["check", str(clean), str(wrong)])
    assert answer.exit_code == 1
    assert f"{wrong}:1: error [insecure-api]" in answer.stdout
    assert "instead: " in answer.stdout
    assert "\x1b" not in answer.stdout
    answer = runner.invoke(app, ["check", "--json", str(wrong)])
    assert json.loads(answer.stdout)[0]["rule"] == "insecure-api"
    answer = runner.invoke(app, ["check", str(tmp_path / "gone.yml"), str(wrong)])
    assert answer.exit_code == 2
    assert "insecure-api" in answer.stdout
    big = tmp_path / "big.yml"
    big.write_bytes(b"#" * (MAX_BYTES + 1))
    assert runner.invoke(app, ["check", str(big)]).exit_code == 2
    (tmp_path / "odd.yml").write_bytes(b"a: \xff\n")
    assert runner.invoke(app, ["check", str(tmp_path / "odd.yml")]).exit_code == 2


def test_file_content_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters of a checked file are not printed."""
    file = tmp_path / "a.yml"
    file.write_text('entryPoints: {web: {address: ":80", "\\e[2J": 1}}\n')
    answer = CliRunner().invoke(app, ["check", str(file)])
    assert answer.exit_code == 1
    assert "\x1b" not in answer.stdout


def test_every_rule_has_its_texts() -> None:
    """No rule in the code lacks texts, and no texts lack a rule."""
    folder = ROOT / "src/trunkline/traefik/check"
    code = "".join(path.read_text() for path in folder.rglob("*.py"))
    named = set(re.findall(r"(?:finding|complain)\(\s*\"([a-z-]+)\"", code))
    texts = set(tomllib.loads((folder / "findings.toml").read_text()))
    undefined = {name for name in texts if name.startswith("undefined-") and name != "undefined-entry-point"}
    assert named == texts - undefined
    assert undefined == {"undefined-middleware", "undefined-resolver", "undefined-service"}
