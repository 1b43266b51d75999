"""Custom resources of Traefik and of Prometheus's operator: their fields exist, and say what our own parts say."""

from __future__ import annotations

import copy

from tests.manifests.test_settings import settings
from tests.support.manifests.objects import KUSTOMIZE, kustomized, objects
from tests.support.manifests.schemas import CUSTOM_GROUPS, complaints
from trunkline.monitor.files import bundle
from trunkline.settings.balancer import DEFAULT_ROUTES
from trunkline.settings.load import load
from trunkline.traefik.render.dynamic import dynamic
from trunkline.traefik.steer.by_cookie import PARAMETER


def test_every_field_exists() -> None:
    """All in one run of the compiler, which takes seconds; a slip in each of three is named."""
    good = [
        each
        for each in objects(kustomized("production")).values()
        if each["apiVersion"].partition("/")[0] in CUSTOM_GROUPS
    ]
    assert {each["kind"] for each in good} == {
        "Middleware", "ServersTransport", "IngressRoute", "ServiceMonitor", "PrometheusRule",
    }  # fmt: skip
    spoiled = [
        copy.deepcopy(each) for each in good if each["kind"] in ("IngressRoute", "ServiceMonitor", "PrometheusRule")
    ]
    for each in spoiled:
        kind = each["kind"]
        if kind == "IngressRoute":
            each["spec"]["routes"][0]["services"][0]["stikcy"] = {}
        elif kind == "ServiceMonitor":
            each["spec"]["endpoints"][0]["intervall"] = "15s"
        else:
            each["spec"]["groups"][0]["rules"][0]["alrt"] = "x"
    said = complaints([*good, *spoiled])
    wrong = {name for name in ("stikcy", "intervall", "alrt") if any(name in line for line in said)}
    assert wrong == {"stikcy", "intervall", "alrt"}, said
    assert all(any(name in line for name in wrong) for line in said), said


def test_rules_are_the_ones_that_are_rendered() -> None:
    """The files of the component are what `trunkline monitor render` writes with its defaults."""
    made = bundle.files(load(None, {"TRUNKLINE_MONITOR_KUBERNETES": "true"}, {}).settings, dashboards=False)
    for name in ("prometheus-rule.yaml", "service-monitors.yaml"):
        assert made[f"kubernetes/{name}"] == (KUSTOMIZE / "components/monitoring" / name).read_text(), name


def test_what_is_scraped_is_a_port_of_a_service() -> None:
    """A ServiceMonitor that selects nothing, or a port that is not there, is silent."""
    found = objects(kustomized("production"))
    for (kind, name), each in found.items():
        if kind != "ServiceMonitor":
            continue
        wanted = each["spec"]["selector"]["matchLabels"].items()
        ports = {
            port["name"]
            for (kind, _), service in found.items()
            if kind == "Service" and wanted <= service["metadata"]["labels"].items()
            for port in service["spec"]["ports"]
        }
        assert {endpoint["port"] for endpoint in each["spec"]["endpoints"]} <= ports, name


def test_the_route_rewrites_as_the_balancer_does() -> None:
    """What is placed by `/api/match/game` must reach the node under the path that it serves."""
    found = objects(kustomized("production"))
    (rewritten,) = (route for route in DEFAULT_ROUTES if route.rewrite)
    middlewares = dynamic(load(None, {}, {}).settings, ()).http
    assert middlewares is not None
    (ours,) = (
        each.replace_path_regex for name, each in (middlewares.middlewares or {}).items() if name.endswith("-rewrite")
    )
    assert ours is not None
    match = found["Middleware", "trunkline-match"]["spec"]["replacePathRegex"]
    assert match == {"regex": ours.regex, "replacement": ours.replacement}
    routes = found["IngressRoute", "trunkline"]["spec"]["routes"]
    assert [rewritten.path in route["match"] for route in routes] == [True, False]


def test_the_pick_comes_back_in_the_cookie_of_the_service() -> None:
    """Three places name one cookie: the question, the service, and the balancer's setting."""
    found = objects(kustomized("production"))
    address = found["Middleware", "trunkline-pick"]["spec"]["forwardAuth"]["address"]
    balancer = settings("production", "trunkline-balancer").balancer
    assert balancer.mode == "steer"
    names = {balancer.sticky_cookie, address.partition(f"{PARAMETER}=")[2]}
    for route in found["IngressRoute", "trunkline"]["spec"]["routes"]:
        assert [each["name"] for each in route["middlewares"]][:2] == ["trunkline-retry", "trunkline-pick"]
        (service,) = route["services"]
        names.add(service["sticky"]["cookie"]["name"])
    assert len(names) == 1
    port = found["Service", "trunkline-balancer"]["spec"]["ports"][0]
    assert address.startswith(f"http://trunkline-balancer:{port['port']}/place?")
