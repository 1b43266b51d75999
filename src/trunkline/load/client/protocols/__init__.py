"""How clients talk: echo, feed, steps of the scenario, or a flow in Python."""

from __future__ import annotations

from trunkline.load.client.alarm import Moments
from trunkline.load.client.protocols.echo import EchoSession
from trunkline.load.client.protocols.feed import FeedSession
from trunkline.load.client.protocols.flow import FlowSession
from trunkline.load.client.protocols.steps import StepsSession
from trunkline.load.client.session import Session, Shared


def make_session(number: int, shared: Shared, moments: Moments) -> Session:
    """A session that talks as the scenario's protocol says, which is resolved and not `auto`."""
    match shared.scenario.protocol:
        case "echo":
            return EchoSession(number, shared)
        case "feed":
            return FeedSession(number, shared, moments)
        case "steps":
            return StepsSession(number, shared, moments)
        case "python":
            return FlowSession(number, shared, moments)
        case unresolved:
            raise ValueError(f"a generator cannot use the protocol {unresolved}")
