"""Decisions of a deploy, over a fleet in memory whose time passes at a call."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.machine.simulation import fleet, plan, run
from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.seen import Drain, Ensure, Move, PutTraffic, Remove, Seen, WitnessSeen
from trunkline.deploy.machine.step import step, taken_over
from trunkline.deploy.runtimes.base import RuntimeNode, What


def states(deploy: Deploy) -> list[str]:
    """The states that it was in, in order."""
    return [span.state for span in deploy.spans]


def test_a_deploy_goes_through_its_states_and_moves_everybody() -> None:
    """The new colour is held before it starts; traffic, then clients, then the old nodes."""
    there = fleet(200)
    done = run(there, Deploy(plan()))
    assert done.state == "done"
    assert states(done) == [
        "planned", "starting", "gating", "smoking", "switching", "verifying", "moving", "finishing", "holding",
        "retiring",
    ]  # fmt: skip
    assert there.clients("green") == 200
    assert there.colour("blue") == []
    assert there.weights == {"green": 100.0}
    first = [type(order) for order in there.orders]
    assert first.index(PutTraffic) < first.index(Ensure)
    assert not any(isinstance(order, Drain) for order in there.orders)


def test_clients_move_at_the_pace_that_was_asked_for() -> None:
    """200 clients over ten seconds: 20 a second, no wave longer than two seconds."""
    there = fleet(200)
    done = run(there, Deploy(plan(over_s=10.0)))
    moving = next(span for span in done.spans if span.state == "moving")
    assert 9.0 <= moving.to_s - moving.from_s <= 14.0
    waves = [order for order in there.orders if isinstance(order, Move)]
    assert all(wave.over_ms <= 2_000 and wave.count <= 40 for wave in waves)


def breaks_at(state: str, change: Callable[[PretendFleet], None]) -> Callable[[Deploy, PretendFleet], Seen | None]:
    """Change the fleet at the first step in a state."""
    done: list[bool] = []

    def on_step(deploy: Deploy, there: PretendFleet) -> Seen | None:
        if deploy.state == state and not done:
            done.append(True)
            change(there)
        return None

    return on_step


def every_new(there: PretendFleet, **values: object) -> None:
    """Change all green nodes."""
    for node in there.colour("green"):
        for name, value in values.items():
            setattr(node, name, value)


def lose(there: PretendFleet) -> None:
    """A witness loses a message."""
    there.witnesses = WitnessSeen(5, 5, lost=1, why="w1 lost 7")


@pytest.mark.parametrize(
    ("state", "change", "why"),
    [
        ("starting", lambda there: setattr(there, "breaks_start", "no module named app"), "no module named app"),
        ("starting", lambda there: setattr(there.new, "state", "down"), "0 of 2 nodes"),
        ("gating", lambda there: every_new(there, unready="its bus is disconnected"), "bus is disconnected"),
        ("gating", lambda there: every_new(there, capacity=55), "takes 110 connections"),
        ("smoking", lambda there: every_new(there, smokes="echo: nothing came back"), "echo"),
        ("switching", lambda there: there.deaf.add("b2"), "not applied by b2"),
        ("verifying", lambda there: every_new(there, lag_ms=900.0), "lags by 900 ms"),
        ("verifying", lambda there: every_new(there, smokes="handshake: 500"), "handshake: 500"),
        ("verifying", lambda there: every_new(there, state="down"), "no node of green"),
        ("verifying", lose, "lost 1 messages"),
        ("moving", lambda there: every_new(there, state="down"), "no node of green"),
        ("moving", lose, "lost 1 messages"),
    ],
)
def test_what_fails_is_rolled_back(state: str, change: Callable[[PretendFleet], None], why: str) -> None:
    """By itself, whatever the state: everybody is on the old colour, and the new one is gone."""
    there = fleet(100)
    ended = run(there, Deploy(plan()), on_step=breaks_at(state, change))
    assert ended.state == "rolled_back"
    assert why in "; ".join(span.why for span in ended.spans)
    if not there.deaf:
        assert there.weights == {"blue": 100.0}
    assert there.clients("blue") == 100
    assert there.colour("green") == []


def test_server_faults_of_the_new_colour_roll_back() -> None:
    """A version that answers with 500 once it has users."""
    there = fleet(100)

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "verifying" and deploy.marks is not None:
            seen.nodes["green-1"].faults += 1
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "rolled_back"
    assert "server faults" in "; ".join(span.why for span in ended.spans)


@pytest.mark.parametrize(
    ("waits", "after_s", "why"),
    [
        ("", 59.0, ""),
        ("", 61.0, "0 of 2 nodes of green are announced, after the time it has"),
        ("Unschedulable", 599.0, ""),
        (
            "Unschedulable",
            601.0,
            "0 of 2 nodes of green are announced; green-1 waits: Unschedulable, after the time it has",
        ),
    ],
)
def test_nodes_that_wait_for_a_machine_or_an_image_have_more_time(waits: str, after_s: float, why: str) -> None:
    """What they wait for is shown meanwhile, and named when the time is over."""
    there = fleet(10)
    there.put_traffic(0, {"blue": 100.0}, False)
    there.pass_time(5.0)
    deploy = msgspec.structs.replace(Deploy(plan()), state="starting", since=0.0, asked_at=0.0)
    process = RuntimeNode("green-1", "green", running=False, waits=waits)
    seen = msgspec.structs.replace(there.seen(Seen(0.0), "starting"), at=after_s, processes=(process,))
    after, _ = step(deploy, seen)
    shown = f"green-1 waits: {waits}" if waits else ""
    assert (after.state, after.why) == (("undoing", why) if why else ("starting", shown))


@pytest.mark.parametrize("state", ["starting", "gating", "smoking", "switching", "verifying", "moving", "holding"])
def test_a_person_rolls_it_back(state: str) -> None:
    """From each state before the point of no return; nobody is left on the new colour."""
    there = fleet(100)
    given: list[bool] = []

    def on_step(deploy: Deploy, _: PretendFleet) -> Seen | None:
        if deploy.state == state and not given:
            given.append(True)
            return Seen(0.0, order="rollback")
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "rolled_back"
    assert (there.clients("blue"), there.colour("green")) == (100, [])


def test_an_order_at_the_point_of_no_return_is_noted() -> None:
    """It is not carried out, and the verdict tells that it was asked for."""
    there = fleet(10)
    ended = run(
        there,
        Deploy(plan()),
        on_step=lambda deploy, _: Seen(0.0, order="rollback") if deploy.state == "retiring" else None,
    )
    assert ended.state == "done"
    assert any("rollback was asked for while retiring" in note for note in ended.notes)


def test_stragglers_are_drained_and_then_counted() -> None:
    """Who does not leave by asking is drained, then left to be cut, and counted."""
    there = fleet(20)
    there.nodes["blue-1"].stays = 3
    ended = run(there, Deploy(plan()))
    assert ended.state == "done"
    assert ended.left == 3
    assert any(isinstance(order, Drain) for order in there.orders)


def test_who_is_on_the_way_is_waited_for_before_the_old_colour_goes() -> None:
    """Clients that were asked last come back first; some that never do cost no more than their time."""
    there = fleet(20)
    there.away = 3
    ended = run(there, Deploy(plan()))
    finishing = next(span for span in ended.spans if span.state == "finishing")
    assert finishing.to_s - finishing.from_s == pytest.approx(10.0, abs=1.0)


def test_a_drained_old_colour_takes_its_clients_back() -> None:
    """A rollback ends the drain first."""
    there = fleet(20)
    there.nodes["blue-1"].stays = 3

    def on_step(deploy: Deploy, _: PretendFleet) -> Seen | None:
        return Seen(0.0, order="rollback") if deploy.state == "holding" else None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "rolled_back"
    assert there.nodes["blue-1"].state == "up"
    assert there.clients("blue") == 20


def test_nobody_returns_to_a_colour_that_is_not_ready() -> None:
    """Both colours stay as they are, and a person chooses; tried again later it goes on."""
    there = fleet(20)

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "holding":
            for node in seen.colour("blue"):
                node.state = "down"
            return Seen(0.0, order="rollback")
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert (ended.state, ended.stuck_in) == ("stuck", "returning")
    assert "no node of blue is ready" in ended.why
    assert not any(isinstance(order, Remove) for order in there.orders)
    for node in there.colour("blue"):
        node.state = "up"
    again = run(there, ended, entered=True)
    assert again.state == "rolled_back"


def test_the_colour_that_holds_more_is_not_removed() -> None:
    """A new colour that fell short before the old one is removed: stuck."""
    there = fleet(20)
    ended = run(
        there, Deploy(plan()), on_step=breaks_at("retiring", lambda f: setattr(f.nodes["green-1"], "state", "down"))
    )
    assert ended.state == "stuck"
    assert "the colour that holds more is not removed" in ended.why
    assert len(there.colour("blue")) == 2


def test_a_dead_old_colour_does_not_stop_a_fix() -> None:
    """Traffic goes to the new colour; nobody is moved."""
    there = fleet(20)
    for node in there.colour("blue"):
        node.state = "down"
    ended = run(there, Deploy(plan(from_nodes=0)))
    assert ended.state == "done"
    assert there.weights == {"green": 100.0}
    assert not any(isinstance(order, Move) for order in there.orders)


@pytest.mark.parametrize(("on_slow", "state"), [("rollback", "rolled_back"), ("force", "done")])
def test_a_slow_move(on_slow: str, state: str) -> None:
    """Waves that wait too long: rolled back, or finished by a drain; without either it waits."""
    there = fleet(100)

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        every_new(seen, lag_ms=900.0 if deploy.state == "moving" else 1.0)
        return None

    ended = run(there, Deploy(plan(on_slow=on_slow)), on_step=on_step)
    assert ended.state == state
    assert ended.waited_s > 10


def test_waves_wait_for_lag_and_refusals_to_fall() -> None:
    """No wave begins while a receiving node is pressed."""
    there = fleet(100)
    pressed: list[float] = []

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "moving" and len(pressed) < 20:
            pressed.append(seen.now)
            seen.nodes["green-1"].refused += 1
            every_new(seen, lag_ms=1.0)
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "done"
    assert ended.waited_s > 0


def test_a_runtime_that_starts_nothing() -> None:
    """Somebody else starts and ends both colours; the rest is the same."""
    there = fleet(50, starts=False)
    there.ensure("green", 2, "")
    ended = run(there, Deploy(plan()))
    assert ended.state == "done"
    assert (there.clients("green"), len(there.colour("blue"))) == (50, 2)


def test_another_version_than_the_one_that_was_meant() -> None:
    """Somebody else has started an old release under the new colour."""
    there = fleet(50, starts=False)
    there.ensure("green", 2, "1.0")
    ended = run(there, Deploy(plan(what=What(version="2.0"))))
    assert ended.state == "rolled_back"
    assert "has version '1.0', not '2.0'" in ended.spans[1].why


def test_a_table_that_somebody_changes_is_set_back() -> None:
    """And the verdict says so."""
    there = fleet(50)
    ended = run(there, Deploy(plan()), on_step=breaks_at("moving", lambda f: setattr(f, "weights", {"blue": 100.0})))
    assert ended.state == "done"
    assert any("somebody changed the traffic table" in note for note in ended.notes)


def test_an_outage_of_the_balancers_is_waited_for() -> None:
    """While nothing can be seen nothing is decided but the end of a state's time."""
    there = fleet(50)
    since: list[float] = []

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "moving":
            since.append(seen.now)
            seen.reachable = not 2 <= seen.now - since[0] < 12
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert ended.state == "done"
    assert there.clients("green") == 50


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(0, 120))
def test_killed_wherever_it_is_and_taken_over_it_ends_the_same(kills: list[int], clients: int) -> None:
    """After any number of actions, also between two of one step; what is stored is all that the next process has."""
    there = fleet(clients)
    ended = run(there, Deploy(plan(over_s=4.0, verify_s=2.0, keep_s=1.0)), kills=kills)
    assert ended.state == "done"
    assert (there.clients("green"), there.colour("blue"), there.weights) == (clients, [], {"green": 100.0})
    assert there.most_away == 0


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.sampled_from(["smoking", "verifying", "moving"]))
def test_killed_while_it_is_rolled_back_it_ends_the_same(kills: list[int], state: str) -> None:
    """A new colour that fails, under a tool that dies."""
    there = fleet(60)

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == state:
            every_new(seen, smokes="echo: nothing came back")
            if state == "moving":
                lose(seen)
        return None

    ended = run(there, Deploy(plan(over_s=4.0, verify_s=8.0)), on_step=on_step, kills=kills)
    assert ended.state == "rolled_back"
    assert (there.clients("blue"), there.colour("green"), there.weights) == (60, [], {"blue": 100.0})


def test_what_is_stored_is_read_back_as_it_was() -> None:
    """All of a deploy goes through JSON."""
    ended = run(fleet(10), Deploy(plan()))
    assert msgspec.json.decode(msgspec.json.encode(ended), type=Deploy) == ended


def test_nothing_happens_once_it_is_over() -> None:
    """A machine that is over orders nothing more."""
    there = fleet(10)
    ended = run(there, Deploy(plan()))
    assert step(ended, there.seen(Seen(there.now, order="rollback"), "done")) == (ended, ())


def test_one_node_that_holds_all() -> None:
    """Fewer and larger nodes take over from more: the guard asks for room, not for a number of nodes."""
    there = fleet(100)
    there.new = PretendNode("", "", capacity=15_000)
    ended = run(there, Deploy(plan(nodes=1)))
    assert ended.state == "done"


def test_a_canary_that_is_there_is_promoted() -> None:
    """It is held until the switch, which the verdict tells; its clients stay where they are."""
    there = fleet(90, starts=False)
    there.ensure("green", 2, "")
    there.nodes["green-1"].clients = 10
    there.put_traffic(0, {"blue": 90.0, "green": 10.0}, False)
    ended = run(there, Deploy(plan()))
    assert (ended.state, there.clients("green"), there.weights) == ("done", 100, {"green": 100.0})
    assert any("the traffic table was {'blue': 90.0, 'green': 10.0}" in note for note in ended.notes)


def test_a_first_deploy_has_no_old_colour() -> None:
    """Nodes without a colour are none of it; nobody is moved, and nothing is removed."""
    there = PretendFleet(PretendNode("other", "", 5, state="down"))
    ended = run(there, Deploy(plan(from_colour="", from_nodes=0)))
    assert (ended.state, there.weights, len(there.colour("green"))) == ("done", {"green": 100.0}, 2)
    assert not any(isinstance(order, Move | Drain | Remove) for order in there.orders)


def test_a_look_for_what_speaks_against_it_that_fails_ends_it() -> None:
    """Nothing was touched yet."""
    there = fleet(10)
    deploy, actions = step(Deploy(plan()), there.seen(Seen(1.0, failed="the registry does not answer"), "planned"))
    assert (deploy.state, deploy.why, actions) == ("refused", "the registry does not answer", ())


def test_a_larger_new_colour_that_fails_is_removed_though_it_has_more_room() -> None:
    """The old colour has its clients, nearly fills up with them, and has all its nodes: nothing is lost."""
    there = fleet(180)
    for node in there.colour("blue"):
        node.capacity = 100
    there.new.smokes = "echo: nothing came back"
    ended = run(there, Deploy(plan(nodes=4)))
    assert (ended.state, there.colour("green"), there.clients("blue")) == ("rolled_back", [], 180)


def test_a_new_colour_that_lost_a_node_is_given_clients_more_slowly() -> None:
    """The share that may be used is one of what is left of it, and no wave is larger than its room."""
    there = fleet(200)
    there.new.accepts_per_s = 20.0
    there.new.capacity = 150

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "moving" and deploy.to_move >= 0:
            seen.nodes["green-1"].state = "down"
        return None

    ended = run(there, Deploy(plan(on_slow="force")), on_step=on_step)
    waves = [order for order in there.orders if isinstance(order, Move)]
    assert waves
    assert max(wave.count for wave in waves[2:]) <= 10
    assert there.nodes["green-2"].clients >= 150
    assert ended.waited_s > 0


def test_nodes_that_carry_no_order_out_are_not_asked_for_ever() -> None:
    """Their clients are stragglers: they are waited for, and then counted."""
    there = fleet(20)
    there.unheard.add("blue-1")
    ended = run(there, Deploy(plan()))
    assert ended.state == "done"
    assert ended.left == 10
    assert any("blue-1 does not answer" in note for note in ended.notes)


def test_clients_of_foreign_backends_are_not_waited_for_by_their_number() -> None:
    """Nobody can ask them: after the time for stragglers they count as forced."""
    there = fleet(4_000, starts=False)
    for node in there.colour("blue"):
        node.foreign = True
    there.ensure("green", 2, "")
    ended = run(there, Deploy(plan(witnesses=0)))
    assert (ended.state, ended.left) == ("done", 4_000)
    finishing = next(span for span in ended.spans if span.state == "finishing")
    assert finishing.to_s - finishing.from_s < 40


def test_a_table_that_cannot_be_given_back_is_for_a_person() -> None:
    """A balancer that refuses the write will not take it by being asked again."""
    there = fleet(20)

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "verifying":
            seen.refuses_table = "401: name its token"
            return Seen(0.0, order="rollback")
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert (ended.state, ended.stuck_in, ended.why) == ("stuck", "returning", "401: name its token")


def test_who_takes_over_says_that_the_witnesses_are_gone() -> None:
    """After the switch nobody accounts for messages any more; before it new ones are started."""
    deploy = msgspec.structs.replace(Deploy(plan(witnesses=50)), state="moving", switched=True)
    assert any("the witnesses ended with the process before" in note for note in taken_over(deploy, 9.0).notes)
    before = msgspec.structs.replace(deploy, state="smoking", switched=False)
    nobody = msgspec.structs.replace(deploy, plan=plan(witnesses=0))
    for each in (before, nobody):
        assert not any("witnesses" in note for note in taken_over(each, 9.0).notes)


def test_who_does_not_go_back_is_counted() -> None:
    """Clients that stay on the new colour until it is removed are cut there, and cannot be counted afterwards."""
    there = fleet(20)

    def on_step(deploy: Deploy, seen: PretendFleet) -> Seen | None:
        if deploy.state == "holding":
            seen.nodes["green-1"].stays = 4
            return Seen(0.0, order="rollback")
        return None

    ended = run(there, Deploy(plan()), on_step=on_step)
    assert (ended.state, ended.left) == ("rolled_back", 4)


def test_causes_and_notes_stay_short() -> None:
    """A cause that names each node of a large fleet does not fill the store, whose value every balancer reads."""
    there = fleet(10)
    why = "; ".join(f"green-{number}: its bus is disconnected" for number in range(1_000))
    ended = run(there, Deploy(plan()), on_step=breaks_at("gating", lambda f: every_new(f, unready=why)))
    assert ended.state == "rolled_back"
    assert len(msgspec.json.encode(Deploy(plan()).noted(why))) < 2_000
    assert len(msgspec.json.encode(ended)) < 10_000
    assert any("green-1: its bus is disconnected" in span.why for span in ended.spans)
