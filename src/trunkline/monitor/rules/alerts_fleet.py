"""Alerts on the fleet's connections: room for them, their absence, their return, deploys. Pure.

Rules: what one node says is of scope `node`, what only all nodes together say is of scope `fleet`. A node that drains
is on purpose without room and without clients.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.rules import recording  # noqa: F401 - declares what the expressions read
from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.monitor.rules.samples import AT_NODE, lasting, node, of_node
from trunkline.settings.monitor import MonitorSettings

ENOUGH: Final = 10
"""Clients whose going is a failure; a few may just have gone home."""

_OTHER: Final = "10.0.0.2:3001"
_COLOUR_DRAINS: Final = (
    "min by (colour) (ws_draining * on (instance) group_left (colour) max by (instance, colour) (ws_build_info)) == 1"
)
_DEPLOY: Final = "max(max_over_time(ws_draining[10m])) == 1 or count(time() - ws_start_time_seconds < 600) > 0"


def _capacity() -> tuple[Alert, ...]:
    return (
        Alert(
            name="TrunklineCapacityHigh",
            expr="instance:ws_capacity:ratio > 0.8",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} has {{ $value | humanizePercentage }} of the connections it takes",
            description="Clients are still let in. Add a node before the limit is reached, or see why one node has "
            "more than its share.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "285s",
                    Case(
                        node(ws_connections_active="8500x60", ws_connections_max="10000x60"),
                        "6m",
                        AT_NODE,
                        "10.0.0.1:3001 has 85% of the connections it takes",
                    ),
                ),
                # Exactly at the threshold is below it.
                Case(node(ws_connections_active="8000x60", ws_connections_max="10000x60"), "10m"),
                # A limit of 0 is no share.
                Case(node(ws_connections_active="5x60", ws_connections_max="0x60"), "10m"),
                # A node that has just started and fills up for a moment.
                Case(node(ws_connections_active="0x4 95x8 40x40", ws_connections_max="100x60"), "8m"),
            ),
        ),
        Alert(
            name="TrunklineCapacityCritical",
            expr="instance:ws_capacity:ratio > 0.95",
            severity="critical",
            lasts="1m",
            summary="{{ $labels.instance }} has {{ $value | humanizePercentage }} of the connections it takes",
            description="In a moment new clients get 503 from this node. Clients that are connected feel nothing yet.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "45s",
                    Case(
                        node(ws_connections_active="97x20", ws_connections_max="100x20"),
                        "2m",
                        AT_NODE,
                        "10.0.0.1:3001 has 97% of the connections it takes",
                    ),
                ),
                Case(node(ws_connections_active="95x20", ws_connections_max="100x20"), "4m"),
                Case(node(ws_connections_active="97x2 90x20", ws_connections_max="100x22"), "4m"),
            ),
        ),
        Alert(
            name="TrunklineConnectionLimitReached",
            expr="ws_connections_active >= (ws_connections_max > 0) unless ws_draining == 1",
            severity="critical",
            lasts="30s",
            summary="{{ $labels.instance }} is full with {{ $value }} connections",
            description="New clients get 503 with Retry-After from this node; a balancer sends them to another one "
            "while there is one with room.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "15s",
                    Case(
                        node(ws_connections_active="10000x20", ws_connections_max="10000x20", ws_draining="0x20"),
                        "2m",
                        AT_NODE,
                        "10.0.0.1:3001 is full with 10000 connections",
                    ),
                ),
                Case(node(ws_connections_active="9999x20", ws_connections_max="10000x20"), "4m"),
                Case(node(ws_connections_active="0x20", ws_connections_max="0x20"), "4m"),
                Case(
                    node(ws_connections_active="100x20", ws_connections_max="100x20", ws_draining="1x20"),
                    "4m",
                ),
            ),
        ),
        Alert(
            name="TrunklineCapacityExhaustionPredicted",
            # Half full and three quarters of an hour old, or any morning would be an emergency.
            expr="predict_linear(fleet:ws_connections_active:sum[1h], 3600) > fleet:ws_connections_max:sum "
            "and fleet:ws_connections_active:sum > 0.5 * fleet:ws_connections_max:sum "
            "and fleet:ws_connections_active:sum offset 45m > 0",
            severity="warning",
            lasts="10m",
            summary="{{ $value | humanize }} connections are to be expected in an hour, more than all nodes take",
            description="At the growth of the last hour the fleet is full within the next one. A node takes a minute "
            "to add and needs none of the clients to move.",
            dashboard="trunkline-fleet",
            labels={"scope": "fleet"},
            cases=(
                *lasting(
                    "50m",
                    Case(
                        node(ws_connections_active="100+10x80", ws_connections_max="1000x80"),
                        "70m",
                        {},
                        "1.396k connections are to be expected in an hour, more than all nodes take",
                        interval="1m",
                    ),
                ),
                # Growth that ends below the limit.
                Case(
                    node(ws_connections_active="100+2x80", ws_connections_max="400x80"),
                    "70m",
                    interval="1m",
                ),
                # Fast, but there is no history: the fleet has just started.
                Case(
                    node(ws_connections_active="0+50x15 750x5", ws_connections_max="1000x20"),
                    "18m",
                    interval="1m",
                ),
                # Fast, but hardly anybody is there.
                Case(
                    node(ws_connections_active="0+4x80", ws_connections_max="400x80"),
                    "45m",
                    interval="1m",
                ),
            ),
        ),
    )


def _absence(idle: str) -> tuple[Alert, ...]:
    chosen = f'{{colour!="{idle}"}}' if idle else ""
    watched, other = ("green" if idle == "blue" else "blue"), idle or "green"

    def two(
        first: str, second: str, drains: str = "0x120", colours: tuple[str, str] = (watched, other)
    ) -> dict[str, str]:
        return {
            **of_node("ws_build_info", "1x120", version="1", node="a", colour=colours[0]),
            **of_node("ws_build_info", "1x120", version="1", node="b", colour=colours[1], instance=_OTHER),
            **node(ws_connections_active=first, ws_draining=drains),
            **node(_OTHER, ws_connections_active=second, ws_draining="0x120"),
        }

    idle_is_empty = (Case(two("40x20 0x100", "40x120", colours=(other, watched)), "25m"),) if idle else ()
    return (
        Alert(
            name="TrunklineNoConnections",
            expr=f"fleet:ws_connections_active:sum == 0 and max_over_time(fleet:ws_connections_active:sum[1h]) "
            f">= {ENOUGH} unless on () min(ws_draining) == 1",
            severity="critical",
            lasts="3m",
            summary="{{ $value }} clients are connected to all nodes together, and there were some within the hour",
            description="The nodes answer scrapes and nobody reaches them: look at what stands before them, from the "
            "outside to the inside.",
            dashboard="trunkline-fleet",
            labels={"scope": "fleet"},
            cases=(
                *lasting(
                    "8m",
                    Case(
                        node(ws_connections_active="50x20 0x40", ws_draining="0x60"),
                        "10m",
                        {},
                        "0 clients are connected to all nodes together, and there were some within the hour",
                    ),
                ),
                # A fleet that has just started.
                Case(node(ws_connections_active="0x60", ws_draining="0x60"), "12m"),
                # Three clients that went home.
                Case(node(ws_connections_active="3x20 0x40", ws_draining="0x60"), "12m"),
                # All of it drains.
                Case(node(ws_connections_active="50x20 0x40", ws_draining="0x19 1x41"), "12m"),
                # One node of two.
                Case(
                    node(ws_connections_active="50x20 0x40", ws_draining="0x60")
                    | node(_OTHER, ws_connections_active="50x60", ws_draining="0x60"),
                    "12m",
                ),
            ),
        ),
        Alert(
            name="TrunklineColourEmpty",
            expr=f"colour:ws_connections_active:sum{chosen} == 0 "
            f"and max_over_time(colour:ws_connections_active:sum{chosen}[1h]) >= {ENOUGH} "
            f"and on () fleet:ws_connections_active:sum > 0 unless on (colour) {_COLOUR_DRAINS}",
            severity="warning",
            lasts="10m",
            summary="{{ $value }} clients are connected to colour {{ $labels.colour }}, and there were some within "
            "the hour",
            description="Other colours have clients. After a switch set monitor.idle_colour to the colour that rests; "
            "otherwise no balancer sends clients to it.",
            dashboard="trunkline-fleet",
            labels={"scope": "fleet"},
            cases=(
                *lasting(
                    "15m",
                    Case(
                        two("40x20 0x100", "40x120"),
                        "16m",
                        {"colour": watched},
                        f"0 clients are connected to colour {watched}, and there were some within the hour",
                    ),
                ),
                # Three clients that went home; never anybody there; it drains in a deploy.
                Case(two("3x20 0x100", "40x120"), "25m"),
                Case(two("0x120", "40x120"), "25m"),
                Case(two("40x20 0x100", "40x120", drains="0x18 1x102"), "25m"),
                # Nobody is left anywhere: another alert says so.
                Case(two("40x20 0x100", "40x20 0x100"), "25m"),
                *idle_is_empty,
            ),
        ),
    )


def _changes() -> tuple[Alert, ...]:
    steady = "0+3x240"
    storm = "0+3x200 2000+600x10"
    old = node(ws_connections_active="1000x240", ws_start_time_seconds="0x240")
    return (
        Alert(
            name="TrunklineReconnectStorm",
            # Not growth, not the ordinary coming and going of this fleet, and not a deploy.
            expr="300 * fleet:ws_connections:rate5m / (max_over_time(fleet:ws_connections_active:sum[15m]) > 0) > 0.3 "
            "and fleet:ws_connections:rate5m > 1 "
            "and fleet:ws_connections:rate5m > 3 * avg_over_time(fleet:ws_connections:rate5m[1h] offset 10m) "
            "and fleet:ws_connections_active:sum <= 1.2 * (fleet:ws_connections_active:sum offset 10m) "
            f"unless on () ({_DEPLOY})",
            severity="warning",
            lasts="1m",
            summary="{{ $value | humanizePercentage }} of all clients connected anew within 5 minutes",
            description="Clients lose their connections and come back, which costs each of them a handshake, its "
            "subscriptions and what it missed. Something between them and the nodes cuts connections.",
            dashboard="trunkline-fleet",
            labels={"scope": "fleet"},
            cases=(
                *lasting(
                    "51m",
                    Case(
                        {**old, **node(ws_connections_total="0+3x200 1200+600x40", ws_draining="0x240")},
                        "55m",
                        {},
                        "1200% of all clients connected anew within 5 minutes",
                    ),
                ),
                # The ordinary coming and going, however fast it is.
                Case({**old, **node(ws_connections_total="0+60x240", ws_draining="0x240")}, "55m"),
                # A launch: the fleet grows.
                Case(
                    node(
                        ws_connections_active="10x200 100+600x40",
                        ws_connections_total="0x200 100+600x40",
                        ws_start_time_seconds="0x240",
                        ws_draining="0x240",
                    ),
                    "55m",
                ),
                # A deploy: one of the nodes drained, or has just started.
                Case({**old, **node(ws_connections_total=storm, ws_draining="0x195 1x2 0x43")}, "52m"),
                Case(
                    {**old, **node(ws_connections_total=storm)}
                    | node(_OTHER, ws_connections_active="0x240", ws_start_time_seconds="_x198 2970x42"),
                    "52m",
                ),
                # Three clients with a loose cable; and a tenth of a large fleet.
                Case(
                    node(ws_connections_active="3x240", ws_start_time_seconds="0x240", ws_draining="0x240")
                    | node(ws_connections_total="0x200 0+3x40"),
                    "55m",
                ),
                Case(
                    node(ws_connections_active="100000x240", ws_start_time_seconds="0x240", ws_draining="0x240")
                    | node(ws_connections_total="0+3x200 1200+600x40"),
                    "55m",
                ),
                # Quiet.
                Case({**old, **node(ws_connections_total=steady)}, "55m"),
            ),
        ),
        Alert(
            name="TrunklineDrainingTooLong",
            expr="ws_connections_active and ws_draining == 1",
            severity="warning",
            lasts="15m",
            summary="{{ $labels.instance }} has been draining for a quarter of an hour with {{ $value }} connections "
            "left",
            description="A drain takes seconds. Until it ends, the fleet is short of one node.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "16m",
                    Case(
                        node(ws_connections_active="30x80", ws_draining="0x4 1x76"),
                        "18m",
                        AT_NODE,
                        "10.0.0.1:3001 has been draining for a quarter of an hour with 30 connections left",
                    ),
                ),
                # A drain of a deploy, and the new process at the same address.
                Case(node(ws_connections_active="30x80", ws_draining="0x4 1x8 0x68"), "18m"),
                # The node has gone.
                Case(node(ws_connections_active="30x20 stale", ws_draining="1x20 stale"), "18m"),
            ),
        ),
        Alert(
            name="TrunklineNodeRestarts",
            expr="changes(ws_start_time_seconds[1h]) >= 3",
            severity="warning",
            lasts="0s",
            summary="{{ $labels.instance }} has started anew {{ $value }} times within an hour",
            description="Each restart cuts its clients off. Somebody starts it again and again, or it dies each time.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                Case(
                    node(ws_start_time_seconds="0x20 300x20 600x20 900x60"),
                    "20m",
                    AT_NODE,
                    "10.0.0.1:3001 has started anew 3 times within an hour",
                ),
                # A deploy, and the first start.
                Case(node(ws_start_time_seconds="0x20 300x100"), "20m"),
                Case(node(ws_start_time_seconds="_x20 300x100"), "20m"),
            ),
        ),
    )


def group(settings: MonitorSettings) -> Group:
    """The alerts on connections.

    Args:
        settings: which colour is idle.
    """
    return Group("fleet", (*_capacity(), *_absence(settings.idle_colour), *_changes()))
