"""Alerts on the watch itself: targets that do not answer, no node at all, and whether alerts can reach anybody. Pure.

Rules: a dead node is one alert, this one; what its series said has gone with it, and what others say of it is
inhibited. The Watchdog always fires: who misses it knows that nobody would be told of anything else.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.monitor.rules.samples import (
    AT_BALANCER,
    AT_NODE,
    BALANCER,
    NODE,
    lasting,
    node,
    of_balancer,
    of_node,
    sample,
)
from trunkline.settings.monitor import MonitorSettings

OTHERS: Final = "traefik|nats|node|cadvisor|postgres|prometheus|alertmanager"
"""Jobs whose targets are watched besides ours; on a shared Prometheus there may be more."""

_SELF: Final = {"job": "prometheus", "instance": "localhost:9090"}
_ALERTMANAGER: Final = {"job": "alertmanager", "instance": "localhost:9093"}


def _targets() -> tuple[Alert, ...]:
    exporter = {"job": "node", "instance": "10.0.0.1:9100"}
    return (
        Alert(
            name="TrunklineNodeDown",
            expr='up{job="trunkline-node"} == 0',
            severity="critical",
            lasts="1m",
            summary="Node {{ $labels.instance }} does not answer (up: {{ $value }})",
            description="It is dead, hangs, or Prometheus may not ask it. If it is dead, its clients are at other "
            "nodes.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting("2m", Case(of_node("up", "1x4 0x20"), "3m", AT_NODE, f"Node {NODE} does not answer (up: 0)")),
                Case(of_node("up", "1x24"), "3m"),
                # Replaced in a deploy, at the same address and at another one.
                Case(of_node("up", "1x4 0x2 1x20"), "2m"),
                Case(of_node("up", "1x4 0 stale"), "3m"),
            ),
        ),
        Alert(
            name="TrunklineBalancerDown",
            expr='up{job="trunkline-balancer"} == 0',
            severity="critical",
            lasts="1m",
            summary="Balancer {{ $labels.instance }} does not answer (up: {{ $value }})",
            description="As a relay it takes its connections with it; where it steers, Traefik's clients get 502 or "
            "503.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "2m",
                    Case(
                        of_balancer("up", "1x4 0x20"), "3m", AT_BALANCER, f"Balancer {BALANCER} does not answer (up: 0)"
                    ),
                ),
                Case(of_balancer("up", "1x4 0x2 1x20"), "2m"),
                Case(of_node("up", "0x24"), "3m"),
            ),
        ),
        Alert(
            name="TrunklineTargetDown",
            expr=f'up{{job=~"{OTHERS}"}} == 0',
            severity="warning",
            lasts="2m",
            summary="{{ $labels.instance }} of job {{ $labels.job }} does not answer (up: {{ $value }})",
            description="What it measures is unknown from here on; alerts on it cannot fire.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting(
                    "3m",
                    Case(
                        sample("up", "1x4 0x20", **exporter),
                        "4m",
                        exporter,
                        "10.0.0.1:9100 of job node does not answer (up: 0)",
                    ),
                ),
                Case(sample("up", "1x24", **exporter), "4m"),
                # Somebody else's target on a shared Prometheus; and ours, which has its own alert.
                Case(sample("up", "0x24", job="billing", instance="10.0.0.7:80"), "4m"),
                Case(of_node("up", "0x24"), "4m"),
            ),
        ),
    )


def _no_node(settings: MonitorSettings) -> Alert:
    expected = bool(settings.nodes or settings.nodes_file or settings.nodes_dns or settings.nodes_docker)
    # Where the settings name nodes, a discovery that finds none is the failure. Else there may be none to find.
    none = "vector(0)" if expected else '0 * count(up{job="trunkline-node"})'
    fires = "0 nodes of the fleet answer"
    nobody = of_balancer("up", "1x20")
    return Alert(
        name="TrunklineNoNodeUp",
        expr=f'(count(up{{job="trunkline-node"}} == 1) or {none}) == 0',
        severity="critical",
        lasts="1m",
        summary="{{ $value }} nodes of the fleet answer",
        description="Nobody can connect, or Prometheus can see none of it: then it is its network or its discovery.",
        dashboard="trunkline-fleet",
        labels={"scope": "fleet"},
        cases=(
            *lasting(
                "2m",
                Case(of_node("up", "1x4 0x20") | of_node("up", "1x4 0x20", instance="10.0.0.2:3001"), "3m", {}, fires),
            ),
            Case(of_node("up", "0x24") | of_node("up", "1x24", instance="10.0.0.2:3001"), "3m"),
            Case(of_node("up", "1x4 0x2 1x20"), "2m"),
            Case(nobody, "3m", {}, fires) if expected else Case(nobody, "3m"),
        ),
    )


def _alerting() -> tuple[Alert, ...]:
    failed = {**_SELF, "rule_group": "/etc/prometheus/rules/fleet.yml;fleet"}
    to = {**_SELF, "alertmanager": "http://127.0.0.1:9093/api/v2/alerts"}
    email = {**_ALERTMANAGER, "integration": "email"}
    return (
        Alert(
            name="TrunklineWatchdog",
            expr="vector(1)",
            severity="info",
            lasts="30s",
            summary="Alerting works (always {{ $value }})",
            description="It is sent all the time. Whoever gets it tells somebody when it stops.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting("15s", Case(node(ws_draining="0x8"), "1m", {}, "Alerting works (always 1)")),
                Case(node(ws_draining="0x8"), "0s"),
            ),
        ),
        Alert(
            name="TrunklineRuleFailures",
            expr="increase(prometheus_rule_evaluation_failures_total[5m]) > 0",
            severity="critical",
            lasts="1m",
            summary="{{ $value | humanize }} evaluations of rules failed within 5 minutes ({{ $labels.rule_group }})",
            description="Alerts of this group may not fire. Prometheus's page /rules shows the error.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting(
                    "225s",
                    Case(
                        sample("prometheus_rule_evaluation_failures_total", "0x10 0+1x40", **failed),
                        "10m",
                        failed,
                        "20 evaluations of rules failed within 5 minutes (/etc/prometheus/rules/fleet.yml;fleet)",
                    ),
                ),
                Case(sample("prometheus_rule_evaluation_failures_total", "5x40", **failed), "8m"),
                Case(sample("prometheus_rule_evaluation_failures_total", "5x20 0x20", **failed), "8m"),
            ),
        ),
        Alert(
            name="TrunklineAlertmanagerMissing",
            expr="prometheus_notifications_alertmanagers_discovered == 0",
            severity="critical",
            lasts="5m",
            summary="Prometheus {{ $labels.instance }} knows {{ $value }} Alertmanagers",
            description="Nobody is told of any alert: this one is seen on Prometheus's page /alerts, and in the "
            "silence of the Watchdog.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting(
                    "285s",
                    Case(
                        sample("prometheus_notifications_alertmanagers_discovered", "0x40", **_SELF),
                        "7m",
                        _SELF,
                        "Prometheus localhost:9090 knows 0 Alertmanagers",
                    ),
                ),
                Case(sample("prometheus_notifications_alertmanagers_discovered", "1x40", **_SELF), "7m"),
                Case(sample("prometheus_notifications_alertmanagers_discovered", "0x4 1x40", **_SELF), "7m"),
            ),
        ),
        Alert(
            name="TrunklineAlertmanagerUnreachable",
            expr="rate(prometheus_notifications_errors_total[5m]) / (rate(prometheus_notifications_sent_total[5m]) > "
            "0) > 0.1",
            severity="critical",
            lasts="2m",
            summary="{{ $value | humanizePercentage }} of alerts did not reach {{ $labels.alertmanager }}",
            description="If it is the only Alertmanager, nobody is told of anything.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting(
                    "2m",
                    Case(
                        sample("prometheus_notifications_errors_total", "0+2x40", **to)
                        | sample("prometheus_notifications_sent_total", "0+2x40", **to),
                        "8m",
                        to,
                        "100% of alerts did not reach http://127.0.0.1:9093/api/v2/alerts",
                    ),
                ),
                Case(
                    sample("prometheus_notifications_errors_total", "0+1x40", **to)
                    | sample("prometheus_notifications_sent_total", "0+20x40", **to),
                    "8m",
                ),
                Case(
                    sample("prometheus_notifications_errors_total", "3x40", **to)
                    | sample("prometheus_notifications_sent_total", "3+2x40", **to),
                    "8m",
                ),
                Case(
                    sample("prometheus_notifications_errors_total", "0x40", **to)
                    | sample("prometheus_notifications_sent_total", "0x40", **to),
                    "8m",
                ),
            ),
        ),
        Alert(
            name="TrunklineNotificationsFailing",
            expr="increase(alertmanager_notifications_failed_total[10m]) > 0",
            severity="critical",
            lasts="1m",
            summary="Alertmanager {{ $labels.instance }} failed {{ $value | humanize }} times within 10 minutes to "
            "tell people by {{ $labels.integration }}",
            description="The mail server or the webhook refuses it or is away. Other channels may still work.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting(
                    "375s",
                    Case(
                        sample("alertmanager_notifications_failed_total", "0x20 0+1x60", **email),
                        "15m",
                        email,
                        "Alertmanager localhost:9093 failed 39 times within 10 minutes to tell people by email",
                    ),
                ),
                Case(sample("alertmanager_notifications_failed_total", "7x60", **email), "12m"),
                Case(sample("alertmanager_notifications_failed_total", "7x30 0x30", **email), "12m"),
            ),
        ),
        Alert(
            name="TrunklineConfigRejected",
            expr="prometheus_config_last_reload_successful == 0 or alertmanager_config_last_reload_successful == 0",
            severity="warning",
            lasts="1m",
            summary="{{ $labels.job }} at {{ $labels.instance }} refused its configuration (accepted: {{ $value }})",
            description="It goes on with the old one, and will not start with the new one.",
            dashboard="trunkline-system",
            labels={"scope": "target"},
            cases=(
                *lasting(
                    "2m",
                    Case(
                        sample("prometheus_config_last_reload_successful", "1x4 0x20", **_SELF),
                        "4m",
                        _SELF,
                        "prometheus at localhost:9090 refused its configuration (accepted: 0)",
                    ),
                ),
                Case(
                    sample("alertmanager_config_last_reload_successful", "1x4 0x20", **_ALERTMANAGER),
                    "4m",
                    _ALERTMANAGER,
                    "alertmanager at localhost:9093 refused its configuration (accepted: 0)",
                ),
                Case(sample("prometheus_config_last_reload_successful", "1x24", **_SELF), "4m"),
            ),
        ),
    )


def group(settings: MonitorSettings) -> Group:
    """All of them.

    Args:
        settings: whether nodes are to be found at all.
    """
    return Group("targets", (*_targets(), _no_node(settings), *_alerting()))
