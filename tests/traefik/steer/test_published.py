"""Which servers Traefik is told of, the stability of the text, and the table of attempts."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trunkline.placement.backend import short_id
from trunkline.placement.placing import Pick
from trunkline.settings.balancer import RouteEntry
from trunkline.settings.sections import Settings
from trunkline.traefik.steer.attempts import MOST, Attempts
from trunkline.traefik.steer.layers import layered
from trunkline.traefik.steer.published import Candidate, Publication, chosen

A, B, C = (f"http://10.0.0.{number}:3001" for number in (1, 2, 3))

candidates = st.lists(
    st.builds(
        Candidate,
        url=st.sampled_from([f"http://10.0.0.{number}:3001" for number in range(8)]),
        pool=st.sampled_from(["", "chat"]),
        usable=st.booleans(),
        draining=st.booleans(),
        held=st.booleans(),
        group=st.sampled_from(["", "blue", "green"]),
        share=st.sampled_from([None, 1.0, 99.0]),
    ),
    unique_by=lambda candidate: candidate.url,
)


def publication() -> Publication:
    return Publication(lambda servers: layered(Settings(), servers))


def routing(publication: Publication) -> dict[str, Any]:
    return msgspec.json.decode(publication.body)["http"]


def test_down_and_draining_servers_are_pickable_but_not_open() -> None:
    """Traefik balances by itself only between servers that take connections."""
    servers = chosen([Candidate(C), Candidate(B, usable=False), Candidate(A, draining=True)])
    assert [server.url for server in servers.pickable] == [A, B, C]
    assert [server.url for server in servers.open] == [C]


def test_a_pool_with_no_usable_server_gets_its_down_ones_back() -> None:
    """Nothing usable: those that are down, and the draining ones only when there are no others."""
    assert [s.url for s in chosen([Candidate(A, usable=False), Candidate(B, draining=True)]).open] == [A]
    assert [s.url for s in chosen([Candidate(A, usable=False, draining=True)]).open] == [A]


def test_a_held_group_is_pickable_and_never_open() -> None:
    """Not even when nothing else is left: what Traefik does by itself leads to no held colour."""
    held = Candidate(A, group="blue", held=True)
    servers = chosen([held, Candidate(B, group="green", usable=False, share=1.0)])
    assert [server.url for server in servers.pickable] == [A, B]
    assert [server.url for server in servers.open] == [B]
    assert chosen([held]).open == ()


def test_open_servers_have_the_shares_of_their_groups() -> None:
    """However many of them a group has; those without a share come last, as for picks."""
    blue = [Candidate(url, group="blue", share=90.0) for url in (A, B)]
    servers = chosen([*blue, Candidate(C, group="green", share=10.0)])
    assert [server.weight for server in servers.open] == [45.0, 45.0, 10.0]
    unnamed = [Candidate(A, group="blue", share=90.0), Candidate(B, group="red")]
    assert [server.url for server in chosen(unnamed).open] == [A]
    assert [server.weight for server in chosen([Candidate(A, weight=3.0), Candidate(B)]).open] == [3.0, 1.0]


@given(candidates, st.randoms())
def test_order_does_not_matter(found: list[Candidate], random: Random) -> None:
    """The same servers in any order give the same bytes, and no change."""
    shuffled = list(found)
    random.shuffle(shuffled)
    one, other = publication(), publication()
    one.update(found)
    other.update(shuffled)
    assert one.body == other.body
    assert not one.update(shuffled)


@given(candidates)
def test_every_pool_with_a_server_has_an_open_one(found: list[Candidate]) -> None:
    """No pool is left without a server unless all of it is held; what is open can be picked and is not held."""
    servers = chosen(found)
    allowed = {candidate.url: candidate for candidate in found if not candidate.held}
    assert {server.pool for server in servers.open} == {candidate.pool for candidate in allowed.values()}
    assert {server.url for server in servers.open} <= allowed.keys()
    assert {server.url for server in servers.open} <= {server.url for server in servers.pickable}
    assert len(servers.pickable) == len(found)


def test_the_text_changes_with_its_content_alone() -> None:
    """A recovery that changes nothing for Traefik makes no reload; a new server does."""
    published = publication()
    assert published.update([Candidate(A), Candidate(B, usable=False, draining=True)])
    body = published.body
    assert not published.update([Candidate(A), Candidate(B, usable=True, draining=True)])
    assert published.body is body
    assert published.update([Candidate(A), Candidate(B)])
    assert published.body != body
    assert published.urls == {A, B}


def test_each_server_has_a_child_router_with_all_parents_of_its_pool() -> None:
    """A pick leads from every route of the pool to the one server, and never to one of another pool."""
    settings = Settings()
    settings = msgspec.structs.replace(
        settings, balancer=msgspec.structs.replace(settings.balancer, routes=(RouteEntry("/chat", pool="chat"),))
    )
    published = Publication(lambda servers: layered(settings, servers))
    published.update([Candidate(A), Candidate(B, pool="chat"), Candidate(C, pool="unrouted")])
    http = routing(published)
    routers, services = http["routers"], http["services"]
    to_a, to_b = routers[f"trunkline-to-{short_id(A)}"], routers[f"trunkline-to-{short_id(B)}"]
    assert to_a["rule"] == f"Header(`X-Trunkline-Pick`, `{short_id(A)}`)"
    assert to_b["parentRefs"] == ["trunkline-0-ws"]
    assert "trunkline-0-ws" not in to_a["parentRefs"]
    assert {"trunkline-1", "trunkline-1-ws", "trunkline-3-ws"} <= set(to_a["parentRefs"])
    assert services[to_a["service"]]["loadBalancer"]["servers"] == [{"url": A}]
    assert f"trunkline-to-{short_id(C)}" not in routers
    for name in to_a["parentRefs"]:
        assert "service" not in routers[name]


def test_the_balancer_is_told_no_credentials() -> None:
    """Of the client's headers only those go to the balancer that it places by."""
    published = publication()
    published.update([Candidate(A)])
    asking = routing(published)["middlewares"]["trunkline-pick"]["forwardAuth"]
    assert asking["authRequestHeaders"] == ["Sec-WebSocket-Key"]
    assert asking["authResponseHeaders"] == ["X-Trunkline-Pick"]


def test_attempts_end_with_their_time_and_their_number() -> None:
    """A repetition within the time is one more attempt; after the last one, or too late, it is a new handshake."""
    attempts, pick = Attempts(3.0, 3), Pick(A, 1, "only")
    assert attempts.earlier(1, 0.0) == ()
    attempts.picked(1, (pick,), 0.0)
    assert attempts.earlier(1, 2.9) == (pick,)
    assert attempts.earlier(2, 2.9) == ()
    assert attempts.earlier(1, 3.1) == ()
    attempts.picked(1, (pick, pick, pick), 0.0)
    assert attempts.earlier(1, 0.1) == ()


def test_the_table_of_attempts_is_bounded() -> None:
    """Old handshakes leave with time, and the oldest when there are too many."""
    attempts, pick = Attempts(3.0, 3), Pick(A, 1, "only")
    for handshake in range(MOST + 10):
        attempts.picked(handshake, (pick,), 1.0)
    assert len(attempts) == MOST
    assert attempts.earlier(9, 1.0) == ()
    assert attempts.earlier(10, 1.0) == (pick,)
    attempts.picked(-1, (pick,), 5.0)
    assert len(attempts) == 1


def test_without_retries_a_repetition_means_nothing() -> None:
    """Traefik makes one attempt: the table stays empty."""
    for number in (0, 1):
        attempts = Attempts(3.0, number)
        attempts.picked(1, (Pick(A, 1, "only"),), 0.0)
        assert len(attempts) == 0
