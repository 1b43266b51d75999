"""The order of versions: what makes one new, what makes it forgotten, and that balancers agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.rollout.order import ABSENT_S, OBJECTION_S, SETTLE_S, Watch, numbers
from trunkline.protocol.versions import MOST_VERSIONS, VersionOrder

FORGOTTEN_S = ABSENT_S + OBJECTION_S


class Store:
    """The order that several balancers share, and a clock that stands unless it is moved on."""

    def __init__(self, balancers: int = 1) -> None:
        self.now = 100.0
        self.order = VersionOrder()
        self.writes = 0
        self.watches = [Watch(self.now) for _ in range(balancers)]
        self.hears: list[set[str]] = [set() for _ in range(balancers)]

    def look(self, *present: str, balancer: int = 0) -> dict[str, int]:
        """One look of a balancer that hears these versions; returns the numbers after it."""
        self.hears[balancer] = set(present)
        self._revise(balancer)
        return numbers(self.order)

    def wait(self, seconds: float) -> dict[str, int]:
        """Let time pass while each balancer looks every second and hears what it heard last."""
        for _ in range(int(seconds)):
            self.now += 1.0
            for balancer in range(len(self.watches)):
                self._revise(balancer)
        return numbers(self.order)

    def _revise(self, balancer: int) -> None:
        revised = self.watches[balancer].revise(self.order, self.hears[balancer], self.now, "now")
        self.writes += revised is not self.order
        self.order = revised


def test_a_later_version_has_a_higher_number() -> None:
    """What is there first has one number, whatever there is of it; each later one the next."""
    store = Store()
    assert store.look("b", "a") == {}
    assert store.wait(SETTLE_S) == {"a": 1, "b": 1}
    assert store.look("a", "b", "2") == {"a": 1, "b": 1, "2": 2}
    assert store.look("a", "b", "2", "0") == {"a": 1, "b": 1, "2": 2, "0": 3}


def test_an_order_that_is_there_is_taken_up_at_once() -> None:
    """A balancer that starts in the middle of an update knows which version is the new one."""
    store = Store()
    store.look("1")
    store.wait(SETTLE_S)
    store.watches.append(Watch(store.now))
    store.hears.append(set())
    assert store.look("1", "2", balancer=1) == {"1": 1, "2": 2}


def test_a_version_that_left_is_a_new_one_when_it_comes_back() -> None:
    """After an update to 2 has ended, going back to 1 makes 1 the newest."""
    store = Store()
    store.look("1")
    store.wait(SETTLE_S)
    store.look("1", "2")
    store.look("2")
    assert store.wait(FORGOTTEN_S - 2) == {"1": 1, "2": 2}
    assert store.wait(3) == {"2": 2}
    assert store.look("1", "2") == {"1": 3, "2": 2}


def test_a_version_that_is_away_for_a_moment_keeps_its_place() -> None:
    """The last node of the old version crashes during an update and comes back: it does not become the newest."""
    store = Store()
    store.look("1")
    store.wait(SETTLE_S)
    store.look("1", "2")
    for away_s in (ABSENT_S - 1, ABSENT_S + OBJECTION_S / 2):
        store.look("2")
        store.wait(away_s)
        assert store.look("1", "2") == {"1": 1, "2": 2}


def test_a_version_that_another_balancer_hears_is_not_forgotten() -> None:
    """One of two balancers hears no node of the old version, as long as it likes."""
    store = Store(balancers=2)
    store.hears = [{"1"}, set()]
    store.wait(SETTLE_S)
    store.hears = [{"1", "2"}, {"2"}]
    assert store.wait(100) == {"1": 1, "2": 2}
    store.hears[0] = {"2"}
    assert store.wait(FORGOTTEN_S + 2) == {"2": 2}


def test_time_in_which_nobody_looked_is_no_absence() -> None:
    """A balancer that takes up an order of yesterday gives nodes the same time to be heard."""
    store = Store()
    store.look("1")
    store.wait(SETTLE_S)
    store.now += 86_400
    store.watches[0] = Watch(store.now)
    assert store.look() == {"1": 1}
    assert not store.order.seen[0].gone


def test_versions_are_bounded() -> None:
    """With a version a node, those that are gone make way; more than the bound are not listed, and nothing rotates."""
    store = Store()
    many = [f"v{number:03}" for number in range(MOST_VERSIONS + 5)]
    store.look(*many[:3])
    store.wait(SETTLE_S)
    assert list(store.look(*many[3:])) == many[3 : 3 + MOST_VERSIONS]
    assert list(store.look(*many[4:])) == many[4 : 4 + MOST_VERSIONS]
    writes = store.writes
    store.wait(100)
    assert store.writes == writes
    assert "x" * 129 not in store.look("x" * 129)


@given(st.lists(st.tuples(st.sets(st.sampled_from("abc")), st.integers(0, 12)), max_size=30))
def test_whatever_comes_and_goes(walk: list[tuple[set[str], int]]) -> None:
    """What is present stays listed, nothing twice, and a version listed later never has a lower number."""
    store = Store()
    store.look("a")
    store.wait(SETTLE_S)
    for present, seconds in walk:
        before = numbers(store.order)
        after = store.look(*present)
        assert present <= set(after)
        assert len(after) == len(store.order.seen)
        assert all(after[version] > max(before.values(), default=0) for version in set(after) - set(before))
        store.wait(seconds)
        assert [each.number for each in store.order.seen] == sorted(each.number for each in store.order.seen)
