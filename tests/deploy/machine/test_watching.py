"""What the new colour is judged by while it takes connections: nodes that answer late, restart, and fall silent."""

from __future__ import annotations

import msgspec

from tests.deploy.machine.simulation import fleet, plan, run
from tests.support.deploy.pretend_fleet import PretendFleet
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.seen import PutTraffic, Remove, Seen


def seconds_in(deploy: Deploy, state: str) -> float:
    """How long it was in a state."""
    return sum(span.to_s - span.from_s for span in deploy.spans if span.state == state)


def test_counts_that_come_late_are_no_new_connections() -> None:
    """A node that has not answered when watching began says later what it has counted in years."""
    there = fleet(100)
    there.nodes["blue-1"].opened = 4_000

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        quiet = deploy.state == "verifying" and seen.now - deploy.asked_at < 4.0
        seen.uncounted = {"blue-1"} if quiet else set()
        return None

    assert run(there, Deploy(plan()), on_step=on_step).state == "done"


def test_a_node_that_has_started_again_counts_from_0() -> None:
    """What it counts since is held against it, though it is less than what the process before it had."""
    there = fleet(100)
    there.nodes["blue-1"].opened = 4_000

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        node = seen.nodes["blue-1"]
        if deploy.state == "verifying" and deploy.marks and node.run == "r1":
            node.run, node.opened = "r2", 50
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "rolled_back"
    assert "50 new connections landed on blue" in "; ".join(span.why for span in ended.spans)


def test_what_could_not_be_seen_was_not_watched() -> None:
    """An outage of the balancers begins the time again; a moment without an answer does not."""
    for outage_s, at_least, at_most in ((4.0, 13.0, 14.0), (1.0, 5.0, 8.0)):
        there, since = fleet(50), [0.0]

        def on_step(deploy: Deploy, seen: PretendFleet, since: list[float] = since, lasts: float = outage_s) -> None:
            if deploy.state == "verifying":
                since[0] = since[0] or seen.now
                seen.reachable = not 3.0 <= seen.now - since[0] < 3.0 + lasts

        ended = run(there, Deploy(plan(verify_s=6.0)), on_step=on_step)
        assert ended.state == "done"
        assert at_least <= seconds_in(ended, "verifying") <= at_most


def test_connections_that_somebody_elses_table_led_are_no_fault() -> None:
    """The table is set back; who has landed on the old colour meanwhile is moved like everybody."""
    there = fleet(100)
    done: list[bool] = []

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "verifying" and deploy.marks and not done:
            done.append(True)
            seen.weights, seen.generation = {"blue": 100.0}, seen.generation + 1
            seen.nodes["blue-1"].opened += 40
            seen.nodes["blue-1"].clients += 40
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "done"
    assert there.clients("green") == 140
    assert any("it is set back" in note for note in ended.notes)


def test_the_old_colour_is_not_removed_while_the_table_gives_it_connections() -> None:
    """Somebody changes the table while the old colour is kept, or just before it goes."""
    for state in ("holding", "retiring"):
        there = fleet(20)
        done: list[str] = []

        def on_step(deploy: Deploy, seen: PretendFleet, state: str = state, done: list[str] = done) -> None:
            if deploy.state == state and not done:
                done.append(state)
                seen.weights, seen.generation = {"blue": 100.0}, seen.generation + 1

        ended = run(there, Deploy(plan()), on_step=on_step)
        assert (ended.state, there.weights) == ("done", {"green": 100.0})
        last = [type(order) for order in there.orders if isinstance(order, PutTraffic | Remove)]
        assert last[-2:] == [PutTraffic, Remove]


def test_marks_are_read_back_as_they_were() -> None:
    """They are stored with the deploy."""
    ended = run(fleet(10), Deploy(plan()))
    assert ended.marks
    assert msgspec.json.decode(msgspec.json.encode(ended), type=Deploy).marks == ended.marks
