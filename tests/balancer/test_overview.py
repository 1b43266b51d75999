"""What /balancer-metrics shows: names that others rely on, a page that cannot be broken by a backend's words."""

from __future__ import annotations

import msgspec
import pytest

from trunkline.balancer.overview import overview, page, refresh_of, shape_wanted
from trunkline.placement.rows import BackendRow
from trunkline.protocol.control import LoadReport
from trunkline.protocol.traffic import BalancerTraffic, TrafficState

NONE = TrafficState(0, {}, (), ())


def row(url: str = "http://10.0.0.1:3001", connections: int = 5, **more: object) -> BackendRow:
    plain = BackendRow(
        url=url, name="n1", group="blue", pool="", source="list", connections=connections, reported=4, report_age_s=1.5,
        relayed=5, reserved=1, state="up", why="", weight=1.0, capacity=100, version="1.4",
        pods=(LoadReport(4, "pod-a", "10.0.0.1", "m1"),),
    )  # fmt: skip
    return msgspec.structs.replace(plain, **more)


def test_json_has_the_names_that_dashboards_read() -> None:
    """Five names at the top, url and connections in a service, the report's own names in podMetrics."""
    uneven = {("", "blue"): 1.25, ("games", ""): 2.0}
    found = overview([row(), row("http://b:1", 3, reported=None, pods=())], uneven, "2026-01-01T00:00:00Z", NONE)
    shown = msgspec.json.decode(msgspec.json.encode(found))
    assert shown["timestamp"] == "2026-01-01T00:00:00Z"
    assert shown["imbalance"] == {"blue": 1.25, "games/": 2.0}
    assert shown["totalConnections"] == shown["agentsConnections"] == 8
    assert [(each["url"], each["connections"]) for each in shown["services"]] == [
        ("http://10.0.0.1:3001", 5),
        ("http://b:1", 3),
    ]
    assert shown["services"][0]["version"] == "1.4"
    assert shown["podMetrics"] == {
        "http://10.0.0.1:3001": [{"agentsConnections": 4, "podName": "pod-a", "podIP": "10.0.0.1", "nodeName": "m1"}]
    }


def test_an_endpoint_of_kubernetes_is_a_pod_whatever_it_reports() -> None:
    """Its name, address and machine are those of the endpoint where the report does not have them."""
    foreign = row(name="ws-1", source="kubernetes", node_name="m2", pods=(LoadReport(4),))
    own = row("http://10.0.0.2:3001", name="ws-2", source="kubernetes", node_name="m2",
              pods=(LoadReport(5, "b", "10.9.9.9", "m1"),))  # fmt: skip
    plain = row("http://10.0.0.3:3001", name="c", source="list", pods=(LoadReport(6),))
    found = overview([foreign, own, plain], {}, "now", NONE).podMetrics
    assert [(pod.podName, pod.podIP, pod.nodeName) for (pod,) in found.values()] == [
        ("ws-1", "10.0.0.1", "m2"),
        ("b", "10.9.9.9", "m1"),
        (None, None, None),
    ]


def test_each_pod_behind_a_url_has_its_entry() -> None:
    """The names are those of the pods, and the page has them all; what they are called is text there too."""
    found = overview([row(pods=(LoadReport(4, "pod-a"), LoadReport(7, "<b>")))], {}, "now", NONE)
    assert [(pod.podName, pod.agentsConnections) for pod in found.podMetrics["http://10.0.0.1:3001"]] == [
        ("pod-a", 4),
        ("<b>", 7),
    ]
    assert "2 pods: pod-a 4, &lt;b&gt; 7" in page(found, 5, "relay")


def test_what_a_backend_says_is_text() -> None:
    """A name, a reason or a pod that looks like markup stays text."""
    evil = "<script>alert(1)</script>"
    found = overview(
        [row(name=evil, why=evil, pods=(LoadReport(4, evil, evil, evil),), group=evil)],
        {("", evil): 1.0},
        "now",
        TrafficState(1, {evil: 1.0}, (evil,), (BalancerTraffic(evil, 0),), evil, evil),
    )
    text = page(found, 5, "relay")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 9


def test_page_without_backends_says_so() -> None:
    """An empty fleet is a sentence, not an empty table."""
    text = page(overview([], {}, "now", NONE), 0, "steer")
    assert "no backend is known yet" in text
    assert "http-equiv" not in text


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, 5), ("0", 0), ("30", 30), ("3", 5), ("-1", 5), ("1e3", 5), ("٣", 5), ("9" * 50, 5)]
)
def test_refresh_is_one_of_the_choices(given: str | None, seconds: int) -> None:
    """Anything that is no choice is the default."""
    assert refresh_of(given) == seconds


@pytest.mark.parametrize(
    ("accept", "chosen", "shape"),
    [
        ("", None, "json"),
        ("*/*", None, "json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", None, "html"),
        ("text/html", "json", "json"),
        ("application/json, text/html", None, "json"),
        ("application/openmetrics-text;version=1.0.0", None, "prometheus"),
        ("text/plain;version=0.0.4;q=0.3,*/*;q=0.1", None, "prometheus"),
        ("text/html", "nonsense", "html"),
    ],
)
def test_shape_follows_who_asks(accept: str, chosen: str | None, shape: str) -> None:
    """Programs get JSON, browsers a page, Prometheus its own format; the query wins."""
    assert shape_wanted(accept, chosen) == shape


@pytest.mark.parametrize(
    ("traffic", "text"),
    [
        (NONE, "New connections: all colours, by capacity; no traffic table"),
        (TrafficState(0, {"blue": 9, "green": 1}, (), ()), "New connections: blue 9, green 1; no traffic table"),
        (
            TrafficState(4, {"green": 100}, ("blue",), (BalancerTraffic("a", 4), BalancerTraffic("b", 4, 1.9)), "now"),
            "New connections: green 100; held: blue; table 4, written now, applied by all balancers",
        ),
        (
            TrafficState(
                4,
                {"green": 1},
                (),
                (BalancerTraffic("b", 3, 0.5), BalancerTraffic("c", 4, 70.0, "host-c:8080")),
                "",
                "al",
            ),
            "table 4, written  by al, not applied by b (has 3), c at host-c:8080 (has 4, silent for 70 s)",
        ),
    ],
)
def test_the_page_says_who_gets_connections(traffic: TrafficState, text: str) -> None:
    """Which colours, since when, and which balancers go on by another table."""
    assert text in page(overview([], {}, "now", traffic), 0, "relay")
