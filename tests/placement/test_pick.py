from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from trunkline.placement import fleet as fleet_module
from trunkline.placement import sticky
from trunkline.placement.backend import BackendSpec, short_id
from trunkline.placement.fleet import Fleet
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.placement.pool import Pool
from trunkline.protocol.control import LoadReport, PickNotice
from trunkline.settings.balancer import BalancerSettings, GroupEntry

A, B, C = (f"http://10.0.0.{i}:3001" for i in (1, 2, 3))


class Placing:
    """A fleet, and its answers."""

    def __init__(self, *specs: BackendSpec | str, now: float = 0.0, **settings: Any) -> None:
        self.rng = random.Random(1)
        self.fleet = Fleet(msgspec.structs.replace(BalancerSettings(), **settings), self.rng)
        self.set(*specs, now=now)

    def set(self, *specs: BackendSpec | str, now: float = 0.0) -> fleet_module.Changes:
        return self.fleet.set_backends([s if isinstance(s, BackendSpec) else BackendSpec(s) for s in specs], now)

    def report(self, url: str, count: int, now: float = 0.0, **more: Any) -> bool:
        return self.fleet.take_report(url, LoadReport(count, **more), asked_at=now, now=now)

    def place(self, now: float = 1.0, **ask: Any) -> Pick:
        answer = place(self.fleet, Ask(ask.pop("key", "k"), **ask), now, self.rng)
        assert isinstance(answer, Pick), answer
        return answer

    def refuse(self, now: float = 1.0, **ask: Any) -> Refusal:
        answer = place(self.fleet, Ask("k", **ask), now, self.rng)
        assert isinstance(answer, Refusal), answer
        return answer

    @property
    def total(self) -> int:
        return sum(backend.estimate for backend in self.fleet.backends.values())

    def burst(self, count: int, now: float = 1.0, **ask: Any) -> Counter[str]:
        return Counter(self.place(now, **ask).url for _ in range(count))


def test_a_pick_names_whom_the_certificate_must_name() -> None:
    """A backend known by its address alone is verified by the name that its source gives."""
    placing = Placing(BackendSpec("https://10.0.0.1:443", server_name="ws.example"))
    assert placing.place().server_name == "ws.example"


def test_the_lowest_load_for_its_share_is_picked() -> None:
    """Connections beside weight x capacity decide; an unknown capacity is the median of the known ones."""
    placing = Placing(A, BackendSpec(B, weight=2.0), C)
    placing.report(A, 100, capacity=1000)
    placing.report(B, 100, capacity=1000)
    counts = placing.burst(100)
    assert counts[C] in (66, 67)
    assert counts[B] == 100 - counts[C]
    placing.report(C, 100)
    counts = placing.burst(500)
    loads = [placing.fleet.backends[url].load for url in (A, B, C)]
    assert max(loads) - min(loads) <= 0.0011
    assert sum(counts.values()) == 500


def test_ties_are_broken_by_chance() -> None:
    """Of equal backends each comes first as often."""
    firsts = Counter()
    placing = Placing(A, B, C)
    for _ in range(3000):
        answer = place(placing.fleet, Ask(""), 1.0, placing.rng)
        assert isinstance(answer, Pick)
        firsts[answer.url] += 1
    assert all(900 < firsts[url] < 1100 for url in (A, B, C))


def test_choosing_alone_reserves_nothing_and_plain_http_neither() -> None:
    """A request without a key leaves the count alone."""
    placing = Placing(A, B)
    place(placing.fleet, Ask(""), 1.0, placing.rng)
    assert placing.place(key="").reservation == 0
    assert placing.total == 0
    assert placing.place().reservation > 0
    assert placing.total == 1


@pytest.mark.parametrize("policy", ["least_connections", "affinity", "p2c", "round_robin", "random"])
def test_no_policy_picks_what_cannot_take_it(policy: str) -> None:
    """Weight 0, draining by source or report, down, full, tried, of another pool: none is picked, by any policy."""
    urls = [f"http://10.1.0.{i}:1" for i in range(8)]
    placing = Placing(
        urls[0],
        BackendSpec(urls[1], weight=0),
        BackendSpec(urls[2], draining=True),
        urls[3],
        urls[4],
        BackendSpec(urls[5], capacity=5),
        urls[6],
        BackendSpec(urls[7], pool="other"),
    )
    placing.report(urls[3], 0, state="draining")
    condition = placing.fleet.backends[urls[4]].condition
    for _ in range(20):
        condition.checked(False, "no answer", 0.5)
    placing.report(urls[5], 5)
    for number in range(200):
        answer = placing.place(policy=policy, affinity=f"match{number}", tried=(urls[6],))
        assert (answer.url, answer.reason) == (urls[0], "retry")


@pytest.mark.parametrize("policy", ["least_connections", "affinity", "p2c", "round_robin", "random"])
def test_the_reason_names_the_policy_or_that_there_was_no_choice(policy: str) -> None:
    """The policy's own name with two backends, `only` with one."""
    assert Placing(A, B).place(policy=policy, affinity="m").reason in (policy, "affinity_spill")
    assert Placing(A).place(policy=policy, affinity="m").reason == "only"


def test_affinity_without_a_key_is_least_connections() -> None:
    """A request that has no such parameter goes by load."""
    placing = Placing(A, B)
    placing.report(A, 10)
    answer = placing.place(policy="affinity")
    assert (answer.url, answer.reason) == (B, "least_connections")


def test_round_robin_goes_by_weight_and_random_reaches_all() -> None:
    """Exact shares over a full turn; shares by chance in the long run."""
    placing = Placing(A, BackendSpec(B, weight=3.0))
    assert placing.burst(40, policy="round_robin") == {A: 10, B: 30}
    counts = placing.burst(2000, policy="random")
    assert 400 < counts[A] < 600


def test_refusals_say_why_and_when_to_come_back() -> None:
    """Nobody there, all down, all full, all tried; the wait differs from one to the next."""
    placing = Placing()
    refused = placing.refuse()
    assert (refused.status, refused.reason) == (503, "no_backend")
    placing.set(A, BackendSpec(B, capacity=1))
    assert (placing.refuse(pool="games").reason, placing.refuse(pool="games").status) == ("no_backend", 503)
    refused = placing.refuse(tried=(A, B))
    assert (refused.status, refused.reason) == (502, "all_tried")
    placing.report(A, 0, capacity=0)
    placing.place()
    refused = placing.refuse()
    assert (refused.status, refused.reason) == (503, "full")
    placing.report(A, 0, 2.0, state="draining")
    placing.set(A, BackendSpec(B, draining=True))
    refused = placing.refuse()
    assert (refused.status, refused.reason) == (503, "all_down")
    waits = {placing.refuse().retry_after_s for _ in range(50)}
    assert len(waits) == 50
    assert all(1 <= wait <= 5 for wait in waits)


def test_capacity_holds_within_a_burst() -> None:
    """A full fleet takes exactly as many as it can."""
    placing = Placing(BackendSpec(A, capacity=10), BackendSpec(B, capacity=20))
    assert placing.burst(30) == {A: 10, B: 20}
    assert placing.refuse().reason == "full"


def test_a_failed_backend_is_ejected_and_tried_again_by_one() -> None:
    """The failures' change is returned; after the back-off one pick tries it, and its success brings it back."""
    placing = Placing(A, B, eject_after=3)
    placing.report(B, 50)
    changes = [placing.fleet.failed(placing.place(1.0).reservation, "dial", 1.0) for _ in range(3)]
    assert [change.after if change else None for change in changes] == [None, None, "ejected"]
    assert placing.place(1.1).url == B
    later = 100.0
    trial = placing.place(later)
    assert trial.url == A
    assert placing.place(later).url == B
    assert [news.event for news in placing.fleet.news] == ["trial"]
    placing.fleet.dropped(trial.reservation, later)
    trial = placing.place(later)
    assert trial.url == A
    change = placing.fleet.opened(trial.reservation, later)
    assert change is not None
    assert change.after == "up"
    assert placing.place(later).url == A


@pytest.mark.parametrize(("urls", "out"), [((A,), 0), ((A, B), 1), ((A, B, C), 1)])
def test_failures_take_out_no_more_than_a_group_can_spare(urls: tuple[str, ...], out: int) -> None:
    """Whatever clients do, at least half of the backends whose checks are good stay; what is kept is named once."""
    placing = Placing(*urls, eject_after=3)
    for _ in range(30):
        placing.fleet.failed(placing.place(1.0).reservation, "status_5xx", 1.0)
    states = [placing.fleet.backends[url].condition.state for url in urls]
    assert sorted(states) == ["ejected"] * out + ["up"] * (len(urls) - out)
    kept = [news for news in placing.fleet.news if news.event == "kept"]
    assert len(kept) == len(urls) - out
    assert "cannot spare" in kept[0].why
    row = next(row for row in placing.fleet.rows(1.0) if row.state == "up")
    assert "cannot spare" in row.why
    well = placing.place(1.0)
    placing.fleet.opened(well.reservation, 1.0)
    assert placing.fleet.backends[well.url].condition.kept == ""


def test_a_backend_that_is_down_is_none_that_the_others_can_be_spared_for() -> None:
    """With the other one down by its checks the last one stays; back again, it is the other that lets it go."""
    placing = Placing(A, B, eject_after=3, health_fall=1)
    placing.fleet.checked(B, False, "no answer", 1.0)
    for _ in range(5):
        placing.fleet.failed(placing.place(1.0).reservation, "status_5xx", 1.0)
    assert placing.place(1.0).url == A
    placing.fleet.checked(B, True, "", 2.0)
    placing.report(B, 50, 2.0)
    placing.fleet.failed(placing.place(2.0).reservation, "status_5xx", 2.0)
    assert placing.fleet.backends[A].condition.state == "ejected"


def test_each_group_keeps_its_own_share() -> None:
    """A canary that clients can make fail does not cost the others, nor they it."""
    placing = Placing(BackendSpec(A, group="stable"), BackendSpec(B, group="canary"), groups=CANARY, eject_after=1)
    for url in (A, B):
        for _ in range(3):
            placing.fleet.failed(placing.fleet.reserve(url, "k", 1.0), "status_5xx", 1.0)
    assert placing.burst(100) == {A: 90, B: 10}


def test_a_fleet_whose_checks_flap_together_is_not_paused() -> None:
    """What the checks ask about (a bus) comes and goes; while it is there, at least half may be used."""
    placing = Placing(A, B, health_fall=1)
    for now in range(1, 9):
        for url in (A, B):
            placing.fleet.checked(url, now % 2 == 0, "status 503", float(now))
    assert sorted(backend.condition.state for backend in placing.fleet.backends.values()) == ["ejected", "up"]


def test_when_all_are_out_one_whose_checks_are_good_is_tried() -> None:
    """The last one is ejected, then the other goes down: clients get the one that at least answers its checks."""
    placing = Placing(A, B, eject_after=1, health_fall=1)
    placing.fleet.failed(placing.fleet.reserve(A, "k", 1.0), "status_5xx", 1.0)
    placing.fleet.checked(B, False, "no answer", 1.0)
    answer = placing.place(1.1)
    assert (answer.url, answer.reason) == (A, "last_resort")
    placing.fleet.opened(answer.reservation, 1.2)
    assert placing.fleet.backends[A].condition.state == "up"


# --- sticky and groups ------------------------------------------------------------------------------------------------


def test_a_sticky_client_comes_back_until_its_backend_cannot_take_it() -> None:
    """The cookie is set once, obeyed, and yields to drain and to a failed try."""
    placing = Placing(A, B, sticky_cookie="lb")
    first = placing.place()
    assert first.cookie == short_id(first.url)
    again = [placing.place(sticky=first.cookie) for _ in range(10)]
    assert {(each.url, each.reason, each.cookie) for each in again} == {(first.url, "sticky", None)}
    assert placing.place(sticky=first.cookie, tried=(first.url,)).url != first.url
    placing.report(first.url, 0, 2.0, state="draining")
    moved = placing.place(sticky=first.cookie)
    assert moved.url != first.url
    assert moved.cookie == short_id(moved.url)


@pytest.mark.parametrize("cookie", ["", "x", "0" * 16, "0" * 15, "0" * 16 + ".", "0" * 16 + ".%ff%", "a" * 100_000])
def test_a_forged_cookie_is_no_cookie(cookie: str) -> None:
    """Whatever a client sends, it is placed as a new one."""
    assert Placing(A, B, sticky_cookie="lb").place(sticky=cookie).reason == "least_connections"


def test_without_the_setting_no_cookie_is_set_or_read() -> None:
    """The default."""
    placing = Placing(A, B)
    placing.report(A, 10)
    answer = placing.place(sticky=short_id(A))
    assert (answer.url, answer.cookie) == (B, None)


CANARY = (GroupEntry("stable", 90), GroupEntry("canary", 10))


def test_groups_get_their_weights_and_keep_their_clients() -> None:
    """90 to 10 exactly; a client of the canary stays there when its backend goes."""
    placing = Placing(A, BackendSpec(B, group="canary"), BackendSpec(C, group="canary"),
                      groups=CANARY, sticky_cookie="lb")  # fmt: skip
    placing.report(A, 0, colour="stable")
    counts = placing.burst(200)
    assert counts[A] == 180
    assert counts[B] == counts[C] == 10
    cookie = f"{short_id(B)}.canary"
    assert placing.place(sticky=cookie).url == B
    placing.set(A, BackendSpec(C, group="canary"))
    for _ in range(5):
        answer = placing.place(sticky=cookie)
        assert (answer.url, answer.group) == (C, "canary")


def test_the_share_of_a_group_that_is_gone_goes_to_the_others() -> None:
    """Also when it is only full; a weight of 0 gets nobody; a group nobody named comes last."""
    placing = Placing(BackendSpec(A, group="stable"), BackendSpec(B, group="canary", capacity=3), groups=CANARY)
    assert placing.burst(100) == {A: 97, B: 3}
    off = (GroupEntry("stable", 1), GroupEntry("canary", 0))
    placing = Placing(BackendSpec(B, group="canary"), BackendSpec(C, group="new"), groups=off)
    assert placing.burst(10) == {C: 10}
    placing.set(BackendSpec(A, group="stable"), BackendSpec(B, group="canary"), BackendSpec(C, group="new"))
    assert placing.burst(10) == {A: 10}
    placing.set(BackendSpec(B, group="canary"))
    assert placing.refuse().reason == "all_down"


def test_when_all_are_down_by_their_checks_one_is_tried_all_the_same() -> None:
    """Checks that fail everywhere say nothing of where a client is best off; one that was tried is the last."""
    placing = Placing(A, B, health_fall=1)
    placing.report(A, 5)
    for url in (A, B):
        placing.fleet.backends[url].condition.checked(False, "status 503", 0.5)
    answer = placing.place()
    assert (answer.url, answer.reason) == (B, "last_resort")
    assert placing.refuse(tried=(B,)).reason == "all_down"
    placing.fleet.backends[A].condition.checked(True, "", 2.0)
    assert placing.place(2.0).url == A


def test_a_trial_that_arrives_brings_its_backend_back() -> None:
    """Where nobody sees the 101 (steering), the key in a node's report says that the trial was good."""
    placing = Placing(A, eject_after=1, mode="steer")
    condition = placing.fleet.backends[A].condition
    placing.report(A, 0, run="r", opened=0, keys=())
    condition.failure("dial", 1.0)
    assert condition.state == "ejected"
    placing.place(100.0, key="trial")
    assert condition.state == "half_open"
    placing.report(A, 1, 101.0, run="r", opened=1, keys=("trial",))
    assert condition.state == "up"


# --- the fleet --------------------------------------------------------------------------------------------------------


def test_membership_changes_are_named() -> None:
    """Added, removed, changed; the same list again changes nothing."""
    placing = Placing()
    assert placing.set(A, B) == ((A, B), (), ())
    assert placing.set(B, A) == ((), (), ())
    assert placing.set(BackendSpec(B, weight=2), C) == ((C,), (A,), (B,))


def test_a_backend_that_comes_back_finds_its_open_connections() -> None:
    """A hiccup of its source loses no count."""
    placing = Placing(A)
    made = placing.place()
    placing.fleet.opened(made.reservation, 1.1)
    placing.set()
    placing.set(A, now=2.0)
    assert placing.fleet.backends[A].ledger.relayed == 1
    placing.set()
    placing.fleet.closed(made.reservation, 3.0)
    placing.set(A, now=4.0)
    assert (placing.total, placing.fleet.backends[A].ledger.relayed) == (0, 0)


def test_slow_start_is_for_those_that_join_a_running_fleet() -> None:
    """The first ones and a lone one start at full share, a later one at a tenth that grows."""
    placing = Placing(A, B, slow_start_ms=10_000)
    assert placing.fleet.backends[A].share == placing.fleet.backends[A].full_share
    placing.report(A, 100)
    placing.report(B, 100)
    placing.set(A, B, C, now=60.0)
    joined = placing.fleet.backends[C]
    assert joined.share == pytest.approx(0.1)
    counts = placing.burst(100, now=60.0)
    assert 10 <= counts[C] <= 14
    placing.place(now=65.0)
    assert joined.share == pytest.approx(0.55)
    placing.place(now=70.0)
    assert joined.share == 1.0
    alone = Placing(A)
    alone.place()
    alone.set(B, now=60.0)
    assert alone.fleet.backends[B].share == 1.0


def test_a_backend_that_lies_is_neither_favoured_nor_starved() -> None:
    """Reports of 0 for ever under steering: once doubted it gets about its part and no more."""
    placing = Placing(A, B, C, mode="steer")
    true = Counter({A: 0, B: 0, C: 0})
    for step in range(1, 40):
        now = 10.0 * step
        true += placing.burst(9, now=now)
        if step == 20:
            assert placing.fleet.backends[C].ledger.doubted
            at_half = Counter(true)
        for url in (A, B, C):
            placing.report(url, 0 if url == C else true[url], now + 5)
    later = true - at_half
    assert [news.event for news in placing.fleet.news] == ["doubted"]
    assert 0.2 < later[C] / sum(later.values()) < 0.5
    placing.report(C, 7, 500.0)
    assert not placing.fleet.backends[C].ledger.doubted
    assert placing.fleet.backends[C].estimate == 7


@pytest.mark.parametrize("count", [-1, 10_000_001, 2**70])
def test_an_unbelievable_report_is_no_report(count: int) -> None:
    """The count stays what it was, and pages say why."""
    placing = Placing(A)
    placing.report(A, 5)
    assert not placing.report(A, count, 1.0)
    assert placing.total == 5
    assert "implausible" in placing.fleet.rows(1.0)[0].why


def test_a_pick_that_never_shows_up_is_forgotten() -> None:
    """After the reservation time when a report had its chance, and later at any rate."""
    placing = Placing(A, B, mode="steer", reservation_ms=15_000, cache_ttl_ms=30_000)
    placing.burst(2, now=1.0)
    placing.fleet.expire(15.9)
    assert placing.total == 2
    placing.fleet.expire(16.0)
    assert placing.total == 0
    placing.report(A, 0, 17.0)
    placing.report(B, 0, 17.0)
    placing.burst(2, now=20.0)
    placing.fleet.expire(40.0)
    assert placing.total == 2
    placing.fleet.expire(95.0)
    assert placing.total == 0
    assert not placing.fleet._due
    assert not placing.fleet._reservations


def test_reservations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the cap the oldest is forgotten early; notices of others count the same."""
    monkeypatch.setattr(fleet_module, "RESERVATIONS_KEPT", 100)
    monkeypatch.setattr(fleet_module, "LATE_KEPT", 50)
    placing = Placing(A, mode="steer")
    for number in range(500):
        placing.place(now=1.0)
        placing.fleet.take_notice("other", PickNotice("p", A, f"k{number}"), 1.0)
    assert placing.total <= 101
    assert len(placing.fleet._reservations) + len(placing.fleet._late) <= 151


def test_events_of_nothing_known_do_nothing() -> None:
    """Reports, notices and outcomes of backends and reservations that are not there."""
    placing = Placing(A)
    fleet = placing.fleet
    assert not placing.report(B, 5)
    fleet.report_failed(B, "timeout", 1.0)
    for event in ("p", "f", "c"):
        fleet.take_notice("other", PickNotice(event, B, "k"), 1.0)  # type: ignore[arg-type]
        fleet.take_notice("other", PickNotice("c", A, "k"), 1.0)
    assert fleet.opened(77, 1.0) is None
    assert fleet.failed(0, "dial", 1.0) is None
    fleet.dropped(77, 1.0)
    fleet.closed(77, 1.0)
    assert fleet.reserve(B, "k", 1.0) == 0
    assert (placing.total, fleet.key_of(77)) == (0, None)


def test_rows_and_imbalance_show_the_fleet() -> None:
    """What pages need of each backend, and how uneven each group is."""
    placing = Placing(A, BackendSpec(B, group="blue", capacity=10, name="two"), BackendSpec(C, group="blue"))
    placing.report(A, 4, 1.0, podName="pod-a", state="draining")
    placing.report(B, 10, 1.0)
    placing.report(C, 5, 1.0, capacity=10)
    one, two, three = placing.fleet.rows(3.0)
    assert (one.state, one.report_age_s, one.connections) == ("draining", 2.0, 4)
    assert [pod.podName for pod in one.pods] == ["pod-a"]
    assert (two.state, two.name, two.reported, two.capacity) == ("full", "two", 10, 10)
    assert three.state == "up"
    assert placing.fleet.imbalance() == {("", "blue"): pytest.approx(10 / 7.5)}
    assert placing.fleet.key_of(placing.place(key="the key").reservation) == "the key"


def test_imbalance_compares_what_could_be_even() -> None:
    """Pools are no measure for each other, and what is down can be given nothing."""
    placing = Placing(A, B, BackendSpec(C, pool="games"), health_fall=1)
    for url, count in ((A, 0), (B, 10), (C, 1000)):
        placing.report(url, count, 1.0)
    assert placing.fleet.imbalance() == {("", ""): 2.0, ("games", ""): 1.0}
    placing.fleet.backends[A].condition.checked(False, "gone", 2.0)
    assert placing.fleet.imbalance() == {("", ""): 1.0, ("games", ""): 1.0}


def test_a_claimed_capacity_beyond_belief_attracts_nobody() -> None:
    """A report with such a capacity is none: what was known holds, and the page says why."""
    placing = Placing(A, B)
    placing.report(A, 1, 0.0, capacity=100)
    assert not placing.report(A, 1, 0.5, capacity=10**15)
    placing.report(B, 1, 0.5, capacity=100)
    assert placing.burst(100) == {A: 50, B: 50}
    assert "implausible capacity: 1000000000000000" in placing.fleet.rows(1.0)[0].why


def test_long_words_of_a_report_are_not_kept() -> None:
    """Of names and colours a report gives no more is kept than fits on a page, whatever changes afterwards."""
    placing = Placing(A)
    long = "x" * 500_000
    placing.report(A, 1, podName=long, podIP=long, nodeName=long, colour=long, run=long, opened=1, keys=(long,))
    placing.set(BackendSpec(A, weight=2.0))
    [row] = placing.fleet.rows(1.0)
    assert [(pod.podName, pod.podIP, pod.nodeName) for pod in row.pods] == [("x" * 256,) * 3]
    assert row.group == "x" * 64
    assert len(msgspec.json.encode(placing.fleet.backends[A].report)) < 2000


def test_a_silent_backend_stays_listed_and_gets_nobody() -> None:
    """It is down and what it reported is not believed; when all are silent one is tried all the same."""
    placing = Placing(A, B)
    placing.report(A, 40)
    placing.report(B, 50)

    def silence(*urls: str) -> None:
        placing.set(*(BackendSpec(url, silent=url in urls) for url in (A, B)))
        for url in (A, B):
            placing.fleet.heard(url, 1.0)

    silence(A)
    assert {placing.place().url for _ in range(20)} == {B}
    row = next(row for row in placing.fleet.rows(1.0) if row.url == A)
    assert (row.state, row.connections, row.reported) == ("down", 0, 40)
    silence(A, B)
    assert placing.place().reason == "last_resort"
    silence()
    assert placing.place().url == A


def test_pods_behind_one_url_are_added_up() -> None:
    """Each poll reaches another pod: from the first repetition on the sum counts, and does not jump."""
    placing = Placing(A, B)
    placing.report(B, 25, 1.0)
    for now, (pod, count) in enumerate([("a", 10), ("b", 20), ("c", 30), ("a", 11), ("c", 31), ("b", 20)], 1):
        placing.report(A, count, float(now), podName=pod, capacity=100)
    row = next(row for row in placing.fleet.rows(6.0) if row.url == A)
    assert (row.connections, row.reported, row.capacity) == (62, 62, 300)
    assert sorted((pod.podName, pod.agentsConnections) for pod in row.pods) == [("a", 11), ("b", 20), ("c", 31)]


def test_backups_wait_until_no_other_can_take_a_connection() -> None:
    """An SRV record of a higher priority number: for when the lower ones are full, out, or were tried."""
    spare = BackendSpec(C, tier=1)
    placing = Placing(BackendSpec(A, capacity=2), BackendSpec(B, capacity=2), spare, health_fall=1)
    assert placing.place(tried=(A, B)).url == C
    assert placing.burst(5) == {A: 2, B: 2, C: 1}
    for url in (A, B):
        placing.fleet.checked(url, False, "no answer", 1.0)
    assert placing.place().url == C
    assert placing.fleet.imbalance() == {}
    placing.fleet.checked(C, False, "no answer", 1.0)
    assert placing.refuse(tried=(C,)).text.startswith("None of 3 backends")
    assert placing.place().reason == "last_resort"
    placing.set(A, B, spare)
    placing.fleet.checked(A, True, "", 2.0)
    assert placing.place(2.0).url == A
    row = next(row for row in placing.fleet.rows(2.0) if row.url == C)
    assert row.state == "down"


def test_when_all_are_down_keys_and_sticky_clients_stay_where_they_are() -> None:
    """What all checks depend on is away for an hour, and clients come and go meanwhile."""
    placing = Placing(A, B, C, sticky_cookie="on", policy="affinity", health_fall=1)
    homes = {key: placing.place(policy="affinity", affinity=key).url for key in "abcdefghij"}
    assert len(set(homes.values())) > 1
    for url in (A, B, C):
        placing.fleet.checked(url, False, "status 503", 1.0)
    for _ in range(3):
        for key, home in homes.items():
            pick = placing.place(policy="affinity", affinity=key)
            assert (pick.url, pick.reason) == (home, "last_resort")
    fresh = {placing.place(policy="affinity", affinity="new").url for _ in range(5)}
    assert len(fresh) == 1
    assert placing.place(sticky=sticky.render(short_id(B), "")).url == B


def test_only_a_backend_that_would_be_taken_out_is_weighed_against_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of a large fleet are many, and each look at a group takes time for all of it."""
    placing = Placing(A, B)
    looks: list[str] = []
    monkeypatch.setattr(Pool, "may_lose", lambda pool, backend, share: looks.append(backend.url))
    for ok in (True, False, True):
        placing.fleet.checked(A, ok, "status 500", 1.0)
    for _ in range(3):
        assert not looks
        placing.fleet.failed(placing.place(tried=(B,)).reservation, "dial", 1.0)
    assert looks == [A]
