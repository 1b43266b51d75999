"""What the checker says of values that Traefik refuses, and whose files it takes for Traefik's."""

from __future__ import annotations

from textwrap import dedent

import pytest

from trunkline.traefik.check.report import check_texts
from trunkline.traefik.check.router_rule import rule_fault
from trunkline.traefik.check.values import is_network, why_no_address, why_no_expression


def found(text: str, name: str = "a.yml") -> list[tuple[int, str]]:
    """Line and rule of each finding in one file."""
    return [(finding.line, finding.rule) for finding in check_texts([(name, dedent(text))]).findings]


def test_an_empty_section_is_named_with_its_line() -> None:
    """It voids the file, in YAML and in TOML; what has no value at all does not count for Traefik."""
    assert found("http:\n  middlewares: {}\n  services: {s: {loadBalancer: {servers: [{url: 'http://a'}]}}}\n") == [
        (2, "empty-section")
    ]
    assert found("http:\n  routers:\n") == [(1, "empty-section")]
    assert found("http:\n") == []
    assert found("[http.middlewares.m.stripPrefix]\n", "a.toml") == [(1, "empty-section")]
    assert found("[http.middlewares.m.compress]\n", "a.toml") == []


def test_values_of_the_wrong_kind_say_what_to_write() -> None:
    """Line, option, value and an example; what another program fills in is left alone."""
    text = """\
        entryPoints:
          web:
            address: ":80"
            asDefault: yes
            transport:
              lifeCycle: {graceTimeOut: 1d}
              respondingTimeouts: {readTimeout: "${READ}"}
        """
    findings = check_texts([("a.yml", dedent(text))]).findings
    assert [(one.line, one.rule) for one in findings] == [(4, "bad-value"), (6, "bad-value")]
    assert "entryPoints.web.asDefault: 'yes'" in findings[0].message
    assert "1m30s" in findings[1].instead


def test_two_entry_points_on_one_address() -> None:
    """Everywhere includes each address; another protocol does not collide, HTTP/3 is UDP; Traefik's own is on 8080."""
    text = "entryPoints:\n  a: {address: '%s'}\n  b: {address: '%s'}\n"
    assert found(text % (":80", ":80")) == [(3, "shared-address")]
    assert found(text % (":80", "127.0.0.1:80")) == [(3, "shared-address")]
    assert found(text % ("10.0.0.1:80", "10.0.0.2:80")) == []
    assert found(text % (":80", ":80/udp")) == []
    assert found(text % (":80", ":81") + "ping: {}\n") == []
    assert found(text % (":80", ":8080") + "ping: {}\n") == [(4, "shared-address")]
    assert found(text % (":80", ":8080") + "ping: {entryPoint: a}\n") == []


@pytest.mark.parametrize(
    ("rule", "instead"),
    [
        ("Host:a.test", "write it as Traefik 3 has it"),
        ("Host(`a`, `b`)", "write Host(`a`) || Host(`b`)"),
        ("PathPrefix(`/a`, `/b`) && Host(`c`)", "write PathPrefix(`/a`) || PathPrefix(`/b`)"),
        ("Headers(`a`, `b`)", "write Header(…)"),
        ("HeadersRegexp(`a`, `b`)", "write HeaderRegexp(…)"),
        ("Path(`/a/{id}`)", "write an expression: PathRegexp"),
        ("HostRegexp(`{sub:[a-z]+}.test`)", "write an expression: HostRegexp"),
        ("Query(`a=b`)", "write Query(`a`, `b`)"),
        ("Host(`a`", "write matchers such as"),
    ],
)
def test_rules_of_older_versions_and_broken_ones(rule: str, instead: str) -> None:
    """What was meant is said where it can be told."""
    fault = rule_fault(rule, "http")
    assert fault is not None
    assert fault.instead.startswith(instead)


def test_the_syntax_of_rules_can_be_set() -> None:
    """A router, or the static file for all, may ask for rules of Traefik 2."""
    router = "http:\n  routers: {r: {rule: 'Host(`a`, `b`)', service: s@docker%s}}\n"
    assert found(router % "") == [(2, "bad-rule")]
    assert found(router % ", ruleSyntax: v2") == []
    core = "core: {defaultRuleSyntax: v2}\nentryPoints: {web: {address: ':80'}}\n"
    assert check_texts([("d.yml", router % ""), ("s.yml", core)]).findings == ()


def test_removed_sections() -> None:
    """Traefik 3 does not start with `pilot`, and ignores other sections that it does not know."""
    assert found("pilot: {token: a}\nentryPoints: {web: {address: ':80'}}\n") == [(1, "removed-section")]
    marathon = check_texts([("a.yml", "providers: {marathon: {}}\nentryPoints: {web: {address: ':80'}}\n")]).findings[0]
    assert "does not start" in marathon.message
    assert marathon.instead == "delete it; Traefik 3 has no such provider"


def test_values_as_go_reads_them() -> None:
    """Networks without masks and zones, addresses with ports, expressions without what Go has not."""
    assert [is_network(text) for text in ("10.0.0.1", "10.0.0.1/8", "::1/64")] == [True] * 3
    assert not any(is_network(text) for text in ("10.0.0.0/33", "10.0.0.0/255.0.0.0", "fe80::1%eth0", "a.test", ""))
    assert [why_no_address(text) for text in (":80", "[::1]:80", ":53/udp", "127.0.0.1:http", "")] == [None] * 5
    assert all(why_no_address(text) for text in ("80", "::1:80", ":99999", ":80/sctp", ":-1"))
    assert [why_no_expression(text) for text in (r"^/a/\d+$", "(?i)a", r"\pL", "[[:alpha:]+]", r"\Qa(\E")] == [None] * 5
    assert all(why_no_expression(text) for text in ("(", "(?=a)", r"(a)\1", "a++", "[", r"\Z", "a{1001}", "*"))


OTHERS = {
    "alertmanager.yml": "global: {resolve_timeout: 5m}\nroute: {receiver: a}\nreceivers: [{name: a}]\n",
    "vector.yaml": "api: {enabled: true, address: '127.0.0.1:8686'}\nsources: {in: {type: stdin}}\nsinks: {}\n",
    "gitlab.yaml": "stages: [a]\nhttp: {services: [a]}\n",
    "nats.yaml": "tls: {certificates: a, cert_file: b}\nhttp: {port: 8222}\nping: {interval: 2m}\n",
    "loki.yaml": "auth_enabled: false\nserver: {http_listen_port: 3100}\ntracing: {enabled: true}\n",
    "tempo.yaml": "server: {}\nmetrics_generator: {}\nlog: {level: info}\n",
    "homeassistant.yaml": "http: {use_x_forwarded_for: true, trusted_proxies: [10.0.0.1]}\napi:\nlogger: {}\n",
    "blackbox.yml": "modules: {http_2xx: {prober: http, http: {method: GET}}}\n",
    "values.yaml": "providers: {kubernetesCRD: {enabled: true}}\nlogs: {general: {level: INFO}}\n"
    "ports: {web: {port: 8000}}\nadditionalArguments: []\n",
    "dockerd.json": '{"experimental": true, "log-driver": "json-file", "metrics-addr": "127.0.0.1:9323"}',
    "trunkline.toml": "[log]\nlevel = 'info'\n[metrics]\naliases = []\n[server]\nport = 3001\n",
    "influxdb.toml": "[http]\nenabled = true\nbind-address = ':8086'\n[meta]\ndir = '/x'\n",
    "otel.yaml": "receivers: {otlp: {protocols: {grpc: {}}}}\nservice: {pipelines: {}}\n",
    "nats.yml": "http: 8222\nport: 4222\n",
    "app.yml": "log: {level: debug, file: app.log, rotate: daily}\n",
    "tls.yml": "tls: {enabled: true, cert: a, key: b}\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_are_left_alone(name: str) -> None:
    """A section of the same name does not make a file Traefik's."""
    assert found(OTHERS[name], name) == []


@pytest.mark.parametrize(
    "text",
    [
        "metrics: {prometheus: {entryPoints: web}}\n",
        "api: {insecur: true, dashboard: true}\n",
        "http: {router: {r: {rule: 'Host(`a`)', service: s}}}\n",
        "providers: {docker: {exposeByDefault: false}}\n",
        "entryPoints: {web: {address: ':80'}}\nlogs: {level: DEBUG}\nmetric: {}\n",
        "certificatesResolvers: {le: {acme: {mail: a@b.c}}}\n",
    ],
)
def test_a_mistake_does_not_hide_whose_file_it_is(text: str) -> None:
    """What is nearly Traefik's is Traefik's with a mistake."""
    assert "unknown-field" in [rule for _, rule in found(text)]
