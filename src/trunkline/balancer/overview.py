"""What `/balancer-metrics` shows: the JSON that dashboards read, and the same as a page for people. Pure.

Rules:

- The names of the JSON are a contract: timestamp, services, podMetrics, totalConnections, agentsConnections. What we
  add stands beside them in the entries of `services`.
- The page is one document with no script: a browser fetches it again by itself, as often as its reader chose.
- Whatever comes from a backend (its name, its pod) is text to be escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import msgspec

from trunkline.balancer.peers import GONE_S
from trunkline.placement.backend import place_of
from trunkline.placement.rows import BackendRow
from trunkline.protocol.control import LoadReport
from trunkline.protocol.traffic import BalancerTraffic, TrafficState

REFRESH_CHOICES: Final = (0, 1, 2, 5, 10, 30)
"""Seconds between two fetches that a reader can choose; 0: none."""

DEFAULT_REFRESH_S: Final = 5
CONTENT_SECURITY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""Of the page: no script at all; its one style sheet stands in it."""


class Service(msgspec.Struct, frozen=True):
    """An entry of `services`: `url` and `connections` by contract, the rest ours."""

    url: str
    connections: int
    name: str
    group: str
    pool: str
    source: str
    state: str
    why: str
    weight: float
    capacity: int | None
    reported: int | None
    report_age_s: float | None = msgspec.field(name="reportAgeSeconds")
    relayed: int
    reserved: int
    version: str
    held: bool
    usable: bool


class PodMetric(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of `podMetrics`, mostly as a pod's own load report has it; a URL may lead to several pods."""

    agentsConnections: int
    podName: str | None = None
    podIP: str | None = None
    nodeName: str | None = None


class Overview(msgspec.Struct, frozen=True):
    """`/balancer-metrics` as JSON."""

    timestamp: str
    services: list[Service]
    podMetrics: dict[str, list[PodMetric]]
    totalConnections: int
    agentsConnections: int
    imbalance: dict[str, float]
    traffic: TrafficState


def overview(
    rows: Sequence[BackendRow], imbalance: Mapping[tuple[str, str], float], timestamp: str, traffic: TrafficState
) -> Overview:
    """The JSON document, at a `timestamp` in UTC as RFC 3339 has it.

    `imbalance` has the fullest backend beside the mean by pool and group; the document's names are `group`, and
    `pool/group` outside of the common pool.
    """
    total = sum(row.connections for row in rows)
    return Overview(
        timestamp=timestamp,
        services=[Service(*(getattr(row, name) for name in Service.__struct_fields__)) for row in rows],
        podMetrics={row.url: [_pod(row, report) for report in row.pods] for row in rows if row.pods},
        totalConnections=total,
        agentsConnections=total,
        imbalance={f"{pool}/{group}" if pool else group: round(value, 4) for (pool, group), value in imbalance.items()},
        traffic=traffic,
    )


_STYLE: Final = """
:root{color-scheme:light dark;--line:#d5d9e0;--soft:#667;--bar:#3b6fd4;--bad:#b3261e;--warn:#8a5a00;--ok:#1d6b3a}
@media(prefers-color-scheme:dark){:root{--line:#3a404a;--soft:#9aa3b2;--bar:#7aa2f7;--bad:#ff8a80;--warn:#ffc56b;--ok:#7ddc9a}}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0 0 .2rem}p{margin:.2rem 0;color:var(--soft)}
nav a,nav b{margin-right:.7rem}a{color:var(--bar)}
.wide{overflow-x:auto;margin-top:1rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.45rem .7rem .45rem 0;border-bottom:1px solid var(--line)}
th,td{vertical-align:top;white-space:nowrap}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
meter{width:8rem;height:.8rem}small{color:var(--soft);display:block}
.up{color:var(--ok)}.down,.ejected,.open{color:var(--bad)}.draining,.half_open,.full{color:var(--warn)}
"""


def page(found: Overview, refresh_s: int, mode: str) -> str:
    """The HTML document, which a browser fetches again every `refresh_s` seconds, one of `REFRESH_CHOICES`."""
    choices = " ".join(
        f"<b>{label}</b>" if seconds == refresh_s else f'<a href="?refresh={seconds}">{label}</a>'
        for seconds in REFRESH_CHOICES
        for label in ["off" if seconds == 0 else f"{seconds} s"]
    )
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    most = max((service.connections for service in found.services), default=0)
    rows = "".join(_row(service, found.podMetrics.get(service.url, []), most) for service in found.services)
    body = rows or '<tr><td colspan="7">no backend is known yet</td></tr>'
    evenness = ", ".join(
        f"{escape(group) + ' ' if group else ''}{value:.3f}" for group, value in sorted(found.imbalance.items())
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>Balancer: '
        f"{found.totalConnections} connections</title><style>{_STYLE}</style></head><body>"
        f"<h1>{found.totalConnections:,} connections on {len(found.services)} backends</h1>"
        f"<p>{_traffic(found.traffic)}</p>"
        f"<p>{escape(mode)}; fullest beside the mean: {evenness or 'nothing to compare'}; {escape(found.timestamp)}</p>"
        f"<nav aria-label='Refresh'>Refresh: {choices}</nav><div class='wide'><table><thead><tr><th>Backend</th>"
        f"<th>State</th><th class='n'>Connections</th><th></th><th class='n'>Reported</th><th class='n'>On the way</th>"
        f"<th class='n'>Capacity</th></tr></thead><tbody>{body}</tbody></table></div></body></html>"
    )


def _traffic(traffic: TrafficState) -> str:
    """The table in one sentence; without one, what stands in its place."""
    weights = ", ".join(f"{escape(colour)} {weight:g}" for colour, weight in sorted(traffic.weights.items()))
    text = f"New connections: {weights or ('none' if traffic.generation else 'all colours, by capacity')}"
    if traffic.held:
        text += f"; held: {escape(', '.join(traffic.held))}"
    if not traffic.generation:
        return f"{text}; no traffic table"
    by = f" by {escape(traffic.changed_by)}" if traffic.changed_by else ""
    late = [_late(peer) for peer in traffic.balancers if peer.silent_s > GONE_S or peer.generation < traffic.generation]
    text += f"; table {traffic.generation}, written {escape(traffic.changed_at)}{by}, "
    return text + (f"not applied by {', '.join(late)}" if late else "applied by all balancers")


def _late(peer: BalancerTraffic) -> str:
    silent = f", silent for {peer.silent_s:.0f} s" if peer.silent_s > GONE_S else ""
    where = f" at {escape(peer.place)}" if peer.place else ""
    return f"{escape(peer.id)}{where} (has {peer.generation}{silent})"


def _pod(row: BackendRow, report: LoadReport) -> PodMetric:
    """What a pod says of itself; an endpoint of Kubernetes is a pod, whose name, address and machine are known."""
    name, address, machine = report.podName, report.podIP, report.nodeName
    if row.source == "kubernetes":
        name, address = name or row.name or None, address or place_of(row.url).host
        machine = machine or row.node_name or None
    return PodMetric(report.agentsConnections, name, address, machine)


def _row(service: Service, pods: Sequence[PodMetric], most: int) -> str:
    about = [
        part for part in (service.name, service.group, service.version, service.pool, f"from {service.source}") if part
    ]
    if len(pods) == 1:
        about += [part for part in (pods[0].podName, pods[0].podIP, pods[0].nodeName) if part]
    elif pods:
        about.append(f"{len(pods)} pods: " + ", ".join(f"{_name(pod)} {pod.agentsConnections:,}" for pod in pods))
    age = "" if service.report_age_s is None else f"<small>{service.report_age_s:.0f} s ago</small>"
    why = f"<small>{escape(service.why)}</small>" if service.why else ""
    # Beside the fullest one rather than its own capacity: what a reader looks for is unevenness.
    full = max(most, 1)
    reported = "none" if service.reported is None else f"{service.reported:,}"
    capacity = "" if service.capacity is None else f"{service.capacity:,}"
    return (
        f"<tr><td>{escape(service.url)}<small>{escape(' · '.join(about))}</small></td>"
        f"<td class='{escape(service.state)}'>{escape(service.state.replace('_', ' '))}{why}</td>"
        f"<td class='n'>{service.connections:,}</td>"
        f"<td><meter min='0' max='{full}' value='{service.connections}'></meter></td>"
        f"<td class='n'>{reported}{age}</td><td class='n'>{service.reserved:,}</td><td class='n'>{capacity}</td></tr>"
    )


def _name(pod: PodMetric) -> str:
    return pod.podName or pod.podIP or "unnamed"


def refresh_of(query_value: str | None) -> int:
    """What a reader chose, or the default for anything that is no choice."""
    if query_value is not None and query_value.isascii() and query_value.isdigit() and len(query_value) < 4:
        chosen = int(query_value)
        if chosen in REFRESH_CHOICES:
            return chosen
    return DEFAULT_REFRESH_S


def shape_wanted(accept: str, chosen: str | None) -> str:
    """Which of `json`, `html` and `prometheus` a request wants; JSON unless it says otherwise, `?format=` wins.

    A browser names text/html first in its Accept header, Prometheus its own type or plain text 0.0.4.
    """
    if chosen in ("json", "html", "prometheus"):
        return chosen
    accept = accept.lower()
    if "application/openmetrics-text" in accept or "version=0.0.4" in accept:
        return "prometheus"
    if "text/html" in accept and "application/json" not in accept:
        return "html"
    return "json"
