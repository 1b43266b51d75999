"""The benchmarks of the balancer stay runnable, and what they count about ours is right even in a smoke run."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.bench_smoke import quick, row


def needs(*programs: str) -> None:
    """Skip where a program that the benchmark is about is missing."""
    for program in programs:
        beside = Path(sys.executable).with_name(program)
        if not beside.exists() and not shutil.which(program) and not shutil.which(program, path="/usr/sbin:/sbin"):
            pytest.skip(f"{program} is not installed")


def test_quick_picks_places_evenly(tmp_path: Path) -> None:
    """`picks` measures every policy and ends its bursts even."""
    rows = quick(tmp_path, "picks")
    assert row(rows, "least_connections, 100 backends")["ours"] > 0
    assert all(each["met"] for each in rows if each["what"].startswith("burst"))


def test_quick_burst_is_even_through_real_relays(tmp_path: Path) -> None:
    """`burst` runs one relay and two that share a NATS, and both spread the connections."""
    rows = quick(tmp_path, "burst")
    assert row(rows, "one relay")["met"]
    # The target is 2; beside other tests a relay may hear of the other one's picks late. At random it would be some 20.
    assert row(rows, "2 relays")["ours"] <= 6


def test_quick_spread_shows_ours_and_the_others(tmp_path: Path) -> None:
    """`spread` measures the steered Traefik, our relay and the balancers that are installed, in three situations."""
    needs("traefik")
    rows = quick(tmp_path, "spread")
    for ours in ("Traefik with steering, ", "relay, "):
        assert len([each for each in rows if each["what"].startswith(ours)]) == 3
    assert row(rows, "Traefik with steering, fresh")["met"]
    assert {"Traefik wrr", "Traefik p2c", "Traefik leasttime"} <= {each["peer"] for each in rows}


def test_quick_relay_measures_messages_beside_a_peer(tmp_path: Path) -> None:
    """`relay` gives the CPU of a message of both sizes, ours and a peer's."""
    needs("haproxy")
    rows = quick(tmp_path, "relay")
    assert {each["what"] for each in rows} == {"relayed message of 64 B", "relayed message of 16 KB"}
    assert "HAProxy" in {each["peer"] for each in rows}
    assert all(each["ours"] > 0 and each["theirs"] > 0 for each in rows)


def test_quick_relay_memory_measures_a_connection_beside_a_peer(tmp_path: Path) -> None:
    """`relay_memory` gives the memory of a connection, ours and a peer's."""
    needs("haproxy")
    rows = quick(tmp_path, "relay_memory")
    assert "HAProxy" in {each["peer"] for each in rows}
    assert all(each["ours"] > 0 and each["theirs"] > 0 for each in rows)


def test_quick_nine_thousand_loses_nothing(tmp_path: Path) -> None:
    """`nine_thousand` holds its connections, all of which carry messages."""
    rows = quick(tmp_path, "nine_thousand")
    assert row(rows, "connections lost")["ours"] == 0
    assert row(rows, "answers missing")["ours"] == 0


def test_quick_steering_measures_both_paths(tmp_path: Path) -> None:
    """`steering` gives what a pick adds to a connect, and what a message costs with and without."""
    needs("traefik")
    rows = quick(tmp_path, "steering")
    assert row(rows, "p50")["ours"] > 0
    assert row(rows, "message of 64 B")["theirs"] > 0


def test_quick_scale_out_loses_no_publication(tmp_path: Path) -> None:
    """`scale_out` ends even over four nodes, and every client has every publication once."""
    rows = quick(tmp_path, "scale_out")
    assert row(rows, "fullest beside the mean")["met"]
    assert row(rows, "lost by recovering")["ours"] == 0
    assert row(rows, "twice or out of order")["ours"] == 0


def test_quick_rollouts_moves_each_client_once(tmp_path: Path) -> None:
    """`rollouts` ends six nodes at once, at a pace that the new ones can take."""
    rows = quick(tmp_path, "rollouts")
    assert row(rows, "did not move once")["ours"] == 0
    assert row(rows, "publications lost")["ours"] == 0
    assert row(rows, "peak reconnects")["met"]


def test_quick_blue_green_loses_nothing(tmp_path: Path) -> None:
    """`blue_green` has the tool itself move all clients; the old nodes are gone afterwards."""
    rows = quick(tmp_path, "blue_green")
    for what in ("lost", "twice", "told of a gap", "connections cut", "did not move once", "never back", "nodes left"):
        assert row(rows, what)["ours"] == 0
    assert row(rows, "peak reconnects")["met"]


def test_quick_deploys_shows_what_a_plain_restart_costs(tmp_path: Path) -> None:
    """`deploys` counts what clients lose behind a stock proxy; nodes of ours lose nothing even there."""
    needs("haproxy")
    rows = quick(tmp_path, "deploys")
    assert row(rows, "websockets nodes restarted: connections cut")["ours"] >= 200
    assert row(rows, "websockets nodes restarted: publications lost")["ours"] > 0
    assert row(rows, "our nodes restarted: connections cut")["ours"] == 0
    assert row(rows, "our nodes restarted: publications lost")["ours"] == 0


def test_quick_office_refuses_nobody_who_was_asked(tmp_path: Path) -> None:
    """`office` moves clients behind one address, and the limits hold for all others."""
    rows = quick(tmp_path, "office")
    assert row(rows, "asked clients refused")["ours"] == 0
    assert row(rows, "others refused")["ours"] >= 100
    assert row(rows, "others let in")["met"]
    assert row(rows, "sessions that the new node did not see return")["ours"] == 0
