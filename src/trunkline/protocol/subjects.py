"""Names of the NATS subjects between nodes and balancers: core NATS, no stream, nothing is kept. Pure.

| subject | sender | message |
|---|---|---|
| `<prefix>.fleet.report` | nodes | `NodeReport` |
| `<prefix>.fleet.hello` | a balancer | empty; every node reports at once |
| `<prefix>.fleet.picks` | balancers | `PickNotices` |
| `<prefix>.fleet.move.<node>` | a balancer, to one node | `MoveOrder`, answered with `Moved` |
| `<prefix>.fleet.keys.<node>` | a balancer, to one node | `KeysAsked`, answered with `KeyCounts` |
| `<prefix>.fleet.goodbyes` | nodes | `Goodbyes` |
| `<prefix>.fleet.drain.<node>` | a deploy, to one node | `DrainOrder`, answered with `DrainState` |
| `<prefix>.fleet.undrain.<node>` | a deploy, to one node | `UndrainOrder`, answered with `DrainState` |
| `<prefix>.fleet.counts.<node>` | a deploy, to one node | `CountsAsked`, answered with `MoveCounts` |

Answers to requests come below `<prefix>.inbox.<user>`.

Rule: a node's name is one token of a subject. A character that means something to NATS is written as in a URL, so a
name of letters, digits, "_" and "-" stands as it is.
"""

from __future__ import annotations

from urllib.parse import quote

MAX_MESSAGE_BYTES = 1 << 20
"""A longer message on one of these subjects comes from no process of ours, and is not read."""


def inbox_prefix(prefix: str, user: str | None) -> str:
    """Below what a part's answers come: each user of NATS has its own, which no other needs a right on."""
    return f"{prefix}.inbox.{_token(user)}" if user else f"{prefix}.inbox"


def report_subject(prefix: str) -> str:
    """Where nodes report."""
    return f"{prefix}.fleet.report"


def hello_subject(prefix: str) -> str:
    """Where a balancer requests a report of all nodes."""
    return f"{prefix}.fleet.hello"


def picks_subject(prefix: str) -> str:
    """Where balancers announce what they picked."""
    return f"{prefix}.fleet.picks"


def move_subject(prefix: str, node: str) -> str:
    """Where a node takes orders to move clients."""
    return f"{prefix}.fleet.move.{_token(node)}"


def keys_subject(prefix: str, node: str) -> str:
    """Where a node takes requests to count its clients by affinity value."""
    return f"{prefix}.fleet.keys.{_token(node)}"


def goodbyes_subject(prefix: str) -> str:
    """Where nodes name the sessions that they ask to move, and those that came back."""
    return f"{prefix}.fleet.goodbyes"


def drain_subject(prefix: str, node: str) -> str:
    """Where a node takes orders to drain."""
    return f"{prefix}.fleet.drain.{_token(node)}"


def undrain_subject(prefix: str, node: str) -> str:
    """Where a node takes orders to end a drain."""
    return f"{prefix}.fleet.undrain.{_token(node)}"


def counts_subject(prefix: str, node: str) -> str:
    """Where a node takes requests for what became of moved clients."""
    return f"{prefix}.fleet.counts.{_token(node)}"


def _token(name: str) -> str:
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E")
