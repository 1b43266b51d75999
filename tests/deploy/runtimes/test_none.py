"""Nodes that somebody else starts."""

from __future__ import annotations

from trunkline.deploy.runtimes.base import Runtime, What
from trunkline.deploy.runtimes.none import NoRuntime


async def test_it_starts_nothing_and_says_so() -> None:
    """What nodes would run is not its business: naming it is a mistake of whoever asks."""
    runtime: Runtime = NoRuntime()
    assert not runtime.starts
    assert await runtime.check("green", What(version="v2")) == ""
    assert await runtime.check("green", What(app="a:b", image="c:d")) == (
        "--app, --image: with --runtime none somebody else starts the nodes; leave it out"
    )
    await runtime.ensure("green", 2, What())
    await runtime.remove("green")
    assert await runtime.list("green") == ()
    assert await runtime.logs("green-1") == ()
