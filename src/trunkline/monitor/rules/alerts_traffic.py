"""Alerts on what becomes of messages and publications: errors, latency, loss, replay, rate limits, the bus. Pure.

Rules: a share is judged only where enough was done to speak of one. What a limit refuses is no error; it is told apart.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.monitor.rules.samples import AT_BALANCER, AT_NODE, NODE, balancer, lasting, node, of_node
from trunkline.settings.monitor import MonitorSettings

_MISSES: Final = "expired|epoch_changed|no_history"


def _errors() -> tuple[Alert, ...]:
    busy = node(ws_connections_total="0+3x60", ws_messages_received_total="0+1500x60")
    return (
        Alert(
            name="TrunklineErrorRate",
            expr="instance:ws_errors:rate5m > 10 and instance:ws_errors:ratio_rate5m > 0.01",
            severity="critical",
            lasts="1m",
            summary="{{ $labels.instance }} answers {{ $value | humanize }} messages and handshakes a second with an "
            "error",
            description="More than ten a second, and more than one in a hundred. Rate limits and drains are not "
            "counted.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "255s",
                    Case(
                        {**busy, **of_node("ws_errors_total", "0+225x60", code="INTERNAL")},
                        "8m",
                        AT_NODE,
                        f"{NODE} answers 15 messages and handshakes a second with an error",
                    ),
                ),
                Case(
                    {**busy, **of_node("ws_connections_failed_total", "0+300x60", reason="unauthorized")},
                    "8m",
                    AT_NODE,
                    f"{NODE} answers 20 messages and handshakes a second with an error",
                ),
                # What limits and a deploy refuse.
                Case({**busy, **of_node("ws_errors_total", "0+225x60", code="RATE_LIMIT_EXCEEDED")}, "8m"),
                Case({**busy, **of_node("ws_connections_failed_total", "0+300x60", reason="draining")}, "8m"),
                # A share that is to be looked at, but not at night.
                Case({**busy, **of_node("ws_errors_total", "0+30x60", code="INTERNAL")}, "8m"),
                # One in ten thousand of a very busy node.
                Case(
                    node(ws_connections_total="0+3x60", ws_messages_received_total="0+2000000x60")
                    | of_node("ws_errors_total", "0+225x60", code="INVALID_JSON"),
                    "8m",
                ),
                # The counters begin anew.
                Case(
                    node(ws_connections_total="90x20 0x40", ws_messages_received_total="90000x20 0x40")
                    | of_node("ws_errors_total", "90000x20 0x40", code="INTERNAL"),
                    "8m",
                ),
            ),
        ),
        Alert(
            name="TrunklineErrorShare",
            expr="instance:ws_errors:ratio_rate5m > 0.05 and instance:ws_errors:rate5m > 0.1",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} answers {{ $value | humanizePercentage }} of messages and handshakes with "
            "an error",
            description="Mostly a new release of clients or of the application that does not fit the other side.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "345s",
                    Case(
                        node(ws_connections_total="0+3x60", ws_messages_received_total="0+27x60")
                        | of_node("ws_errors_total", "0+10x60", code="INVALID_MESSAGE"),
                        "12m",
                        AT_NODE,
                        f"{NODE} answers 25% of messages and handshakes with an error",
                    ),
                ),
                # One of the few things that are asked at night.
                Case(
                    node(ws_connections_total="0x60", ws_messages_received_total="0+1x60")
                    | of_node("ws_errors_total", "0+1x60", code="INVALID_JSON"),
                    "12m",
                ),
                Case(node(ws_connections_total="0x60", ws_messages_received_total="0x60"), "9m"),
                Case({**busy, **of_node("ws_errors_total", "0+3x60", code="INVALID_JSON")}, "12m"),
            ),
        ),
    )


def _latency() -> Alert:
    def observed(fast: str, slow: str) -> dict[str, str]:
        return {
            **of_node("ws_message_latency_seconds_bucket", fast, le="1.0"),
            **of_node("ws_message_latency_seconds_bucket", slow, le="2.5"),
            **of_node("ws_message_latency_seconds_bucket", slow, le="+Inf"),
            **node(ws_message_latency_seconds_count=slow),
        }

    return Alert(
        name="TrunklineMessageLatency",
        expr="instance:ws_message_latency_seconds:p95_5m > 1 and increase(ws_message_latency_seconds_count[5m]) > 10",
        severity="warning",
        lasts="5m",
        summary="{{ $labels.instance }} takes {{ $value | humanizeDuration }} for a message (p95)",
        description="From reading a message to having handled it: the application's handlers are slow, or wait.",
        dashboard="trunkline-fleet",
        labels={"scope": "node"},
        cases=(
            *lasting(
                "5m", Case(observed("0+10x60", "0+20x60"), "12m", AT_NODE, f"{NODE} takes 2.35s for a message (p95)")
            ),
            Case(observed("0+20x60", "0+20x60"), "12m"),
            # A slow message each minute, and nothing else.
            Case(observed("0x20", "0+1x20"), "14m", interval="1m"),
            Case(observed("0x60", "0x60"), "12m"),
        ),
    )


def _loss() -> tuple[Alert, ...]:
    lost = 'increase(ws_publications_dropped_total{reason!="slow_client"}[10m])'
    to_slow = 'sum without (reason) (rate(ws_publications_dropped_total{reason="slow_client"}[5m]))'
    return (
        Alert(
            name="TrunklinePublicationsLost",
            expr=f"sum without (reason) ({lost}) > 0",
            severity="warning",
            lasts="0s",
            summary="{{ $labels.instance }} found {{ $value | humanize }} holes in its channels within 10 minutes",
            description="Publications did not come over the bus and were in no history any more. Subscribers were "
            "told of the gap.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                # The first events of all; counters stand at 0 before them.
                Case(
                    of_node("ws_publications_dropped_total", "0x60 7x60", reason="epoch_changed"),
                    "18m",
                    AT_NODE,
                    f"{NODE} found 7 holes in its channels within 10 minutes",
                ),
                Case(of_node("ws_publications_dropped_total", "0x60 7x60", reason="epoch_changed"), "28m"),
                Case(of_node("ws_publications_dropped_total", "0+5x120", reason="slow_client"), "18m"),
                # Prometheus sees an old node for the first time, and one that began anew.
                Case(of_node("ws_publications_dropped_total", "_x60 7x60", reason="expired"), "18m"),
                Case(of_node("ws_publications_dropped_total", "7x60 0x60", reason="missed"), "18m"),
            ),
        ),
        Alert(
            name="TrunklinePublicationsDropped",
            expr=f"{to_slow} / ({to_slow} + rate(ws_messages_sent_total[5m]) > 1) > 0.01",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} drops {{ $value | humanizePercentage }} of what it should deliver, "
            "for clients that read slowly",
            description="Their outboxes are full. They are told of the gap and can recover, which costs more than "
            "reading.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "5m",
                    Case(
                        of_node("ws_publications_dropped_total", "0+150x60", reason="slow_client")
                        | node(ws_messages_sent_total="0+1350x60"),
                        "12m",
                        AT_NODE,
                        f"{NODE} drops 10% of what it should deliver, for clients that read slowly",
                    ),
                ),
                Case(
                    of_node("ws_publications_dropped_total", "0+150x60", reason="slow_client")
                    | node(ws_messages_sent_total="0+150000x60"),
                    "12m",
                ),
                Case(
                    of_node("ws_publications_dropped_total", "0+1x60", reason="slow_client")
                    | node(ws_messages_sent_total="0+5x60"),
                    "12m",
                ),
                Case(
                    of_node("ws_publications_dropped_total", "3x60", reason="slow_client")
                    | node(ws_messages_sent_total="9x60"),
                    "12m",
                ),
            ),
        ),
    )


def _replay() -> tuple[Alert, ...]:
    asked = "sum without (result) (rate(ws_replay_requests_total[5m]))"
    missed = f'sum without (result) (rate(ws_replay_requests_total{{result=~"{_MISSES}"}}[5m]))'
    return (
        Alert(
            name="TrunklineReplayRate",
            expr=f"{asked} > 1 and 60 * {asked} > 0.5 * ws_connections_active",
            severity="warning",
            lasts="10m",
            summary="Clients of {{ $labels.instance }} ask {{ $value | humanize }} times a second for what they missed",
            description="More than every second client asks each minute: their connections break, or they drop what "
            "they got.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "750s",
                    Case(
                        of_node("ws_replay_requests_total", "0+30x80", result="recovered")
                        | node(ws_connections_active="100x80"),
                        "18m",
                        AT_NODE,
                        f"Clients of {NODE} ask 2 times a second for what they missed",
                    ),
                ),
                # Many clients, of whom some come back as clients do.
                Case(
                    of_node("ws_replay_requests_total", "0+30x80", result="recovered")
                    | node(ws_connections_active="5000x80"),
                    "18m",
                ),
                # Few clients that ask often.
                Case(
                    of_node("ws_replay_requests_total", "0+6x80", result="recovered")
                    | node(ws_connections_active="10x80"),
                    "18m",
                ),
                # All of them once, after a deploy.
                Case(
                    of_node("ws_replay_requests_total", "0x8 0+250x4 1000x60", result="recovered")
                    | node(ws_connections_active="1000x80"),
                    "16m",
                ),
                # The counter begins anew.
                Case(
                    of_node("ws_replay_requests_total", "9000x20 0x60", result="recovered")
                    | node(ws_connections_active="10x80"),
                    "18m",
                ),
            ),
        ),
        Alert(
            name="TrunklineReplayMisses",
            expr=f"{missed} / ({asked} > 0.05) > 0.1",
            severity="warning",
            lasts="5m",
            summary="{{ $value | humanizePercentage }} of those who ask {{ $labels.instance }} for what they missed "
            "do not get all of it",
            description="History was shorter than their absence, or began anew. They have to load their state afresh.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "315s",
                    Case(
                        of_node("ws_replay_requests_total", "0+6x80", result="recovered")
                        | of_node("ws_replay_requests_total", "0+3x80", result="expired")
                        | of_node("ws_replay_requests_total", "0+3x80", result="epoch_changed"),
                        "12m",
                        AT_NODE,
                        f"50% of those who ask {NODE} for what they missed do not get all of it",
                    ),
                ),
                Case(
                    of_node("ws_replay_requests_total", "0+60x80", result="complete")
                    | of_node("ws_replay_requests_total", "0+1x80", result="expired"),
                    "12m",
                ),
                # One of two who ask at night.
                Case(
                    of_node("ws_replay_requests_total", "0+1x20", result="recovered")
                    | of_node("ws_replay_requests_total", "0+1x20", result="expired"),
                    "14m",
                    interval="1m",
                ),
            ),
        ),
    )


def _limits() -> tuple[Alert, ...]:
    refused = 'sum without (reason) (rate(ws_connections_failed_total{reason="address_rate"}[5m]))'
    return (
        Alert(
            name="TrunklineRateLimiting",
            expr="rate(ws_rate_limited_messages_total[5m]) / (rate(ws_messages_received_total[5m]) > 0) > 0.05 "
            "and rate(ws_rate_limited_messages_total[5m]) > 1",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} refuses {{ $value | humanizePercentage }} of messages "
            "because their senders are over their rate",
            description="One client gone wild, or limits.rate_per_s is too low for what clients do now.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "330s",
                    Case(
                        node(ws_rate_limited_messages_total="0+150x60", ws_messages_received_total="0+600x60"),
                        "12m",
                        AT_NODE,
                        f"{NODE} refuses 25% of messages because their senders are over their rate",
                    ),
                ),
                Case(node(ws_rate_limited_messages_total="0+150x60", ws_messages_received_total="0+60000x60"), "12m"),
                Case(node(ws_rate_limited_messages_total="0+1x60", ws_messages_received_total="0+2x60"), "12m"),
                Case(node(ws_rate_limited_messages_total="0x60", ws_messages_received_total="0x60"), "12m"),
                Case(node(ws_rate_limited_messages_total="9000x20 0x60", ws_messages_received_total="0+9x80"), "12m"),
            ),
        ),
        Alert(
            name="TrunklineHandshakesRateLimited",
            expr=f"{refused} / ({refused} + rate(ws_connections_total[5m]) > 1) > 0.2",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} refuses {{ $value | humanizePercentage }} of handshakes "
            "because their addresses make too many",
            description="One address that tries without pause, an office behind one address, or a proxy that is not in "
            "server.trusted_proxies and whose address then stands for all clients.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "330s",
                    Case(
                        of_node("ws_connections_failed_total", "0+60x60", reason="address_rate")
                        | node(ws_connections_total="0+60x60"),
                        "12m",
                        AT_NODE,
                        f"{NODE} refuses 50% of handshakes because their addresses make too many",
                    ),
                ),
                Case(
                    of_node("ws_connections_failed_total", "0+60x60", reason="address_rate")
                    | node(ws_connections_total="0+600x60"),
                    "12m",
                ),
                Case(
                    of_node("ws_connections_failed_total", "0+1x60", reason="address_rate")
                    | node(ws_connections_total="0+1x60"),
                    "12m",
                ),
                Case(
                    of_node("ws_connections_failed_total", "0+60x60", reason="origin")
                    | node(ws_connections_total="0+60x60"),
                    "12m",
                ),
            ),
        ),
    )


def _bus() -> tuple[Alert, ...]:
    return (
        Alert(
            name="TrunklineBusDisconnected",
            expr="ws_nats_connected == 0",
            severity="critical",
            lasts="30s",
            summary="{{ $labels.instance }} has no connection to the bus (connected: {{ $value }})",
            description="Its clients stay connected and get nothing from other nodes; what they publish is refused. "
            "Everything is delivered from history when the bus is back.",
            dashboard="trunkline-nats",
            labels={"scope": "bus"},
            cases=(
                *lasting(
                    "150s",
                    Case(
                        node(ws_nats_connected="1x8 0x40"),
                        "4m",
                        AT_NODE,
                        f"{NODE} has no connection to the bus (connected: 0)",
                    ),
                ),
                Case(node(ws_nats_connected="1x40"), "4m"),
                # A node that starts, or a server of a cluster that was restarted.
                Case(node(ws_nats_connected="0 1x40"), "15s"),
                Case(node(ws_nats_connected="1x8 0 1x40"), "150s"),
            ),
        ),
        Alert(
            name="TrunklineBalancerBusDisconnected",
            # A balancer that was never told of a bus says 0 as well.
            expr="ws_balancer_nats_connected == 0 and max_over_time(ws_balancer_nats_connected[6h]) == 1",
            severity="warning",
            lasts="1m",
            summary="Balancer {{ $labels.instance }} has no connection to the bus (connected: {{ $value }})",
            description="It goes on with the backends it knows, and asks them for their load over HTTP. New nodes that "
            "only announce themselves on the bus are not found.",
            dashboard="trunkline-edge",
            labels={"scope": "bus"},
            cases=(
                *lasting(
                    "3m",
                    Case(
                        balancer(ws_balancer_nats_connected="1x8 0x40"),
                        "5m",
                        AT_BALANCER,
                        "Balancer 10.0.0.9:8080 has no connection to the bus (connected: 0)",
                    ),
                ),
                Case(balancer(ws_balancer_nats_connected="0x40"), "5m"),
                Case(balancer(ws_balancer_nats_connected="1x40"), "5m"),
            ),
        ),
    )


def group(settings: MonitorSettings) -> Group:
    """All of them.

    Args:
        settings: not needed here; every group is made in the same way.
    """
    return Group("traffic", (*_errors(), _latency(), *_loss(), *_replay(), *_limits(), *_bus()))
