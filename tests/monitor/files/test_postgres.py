"""Our queries for postgres_exporter, asked by the real exporter of a real PostgreSQL with real trouble."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.support.monitor.live_postgres import Exporter, Postgres, Samples, exporter, missing, new, standby
from tests.support.patience import patient
from trunkline.monitor.files import postgres
from trunkline.monitor.rules import foreign_series

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ORDERS = (("datname", "shop"), ("relname", "orders"), ("schemaname", "public"))
SHOP = (("datname", "shop"),)
STANDBY = {"trunkline_pg_replica_lag_seconds", "trunkline_pg_standby_lag_bytes"}


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered file."""
    file = tmp_path_factory.mktemp("exporter") / "queries.yml"
    file.write_text(postgres.queries_yaml())
    return file


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server with a database, statistics of statements, and no autovacuum that would clean up behind us."""
    with new("shared_preload_libraries=pg_stat_statements", "autovacuum=off", "deadlock_timeout=50ms") as running:
        running.sql("CREATE EXTENSION pg_stat_statements", "CREATE DATABASE shop")
        running.sql(
            "CREATE TABLE orders (id int PRIMARY KEY, note text)",
            "INSERT INTO orders SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n",
            database="shop",
        )
        # In a session of its own: counts of the insertion are told when its session ends, and would be added again.
        running.sql("VACUUM ANALYZE orders", database="shop")
        yield running


@pytest.fixture(scope="module")
def scraped(server: Postgres, queries: Path) -> Iterator[Exporter]:
    """The exporter that looks at it."""
    with exporter(server, queries) as running:
        yield running


def test_what_is_declared_is_what_is_asked() -> None:
    """The series that rules may name are those of our queries, no more and no less."""
    declared = {each.name for each in foreign_series.SERIES if each.name.startswith("trunkline_pg_")}
    assert set(postgres.names()) == declared
    assert set(re.findall(r"(?m)^#   (trunkline_pg_\w+): ", postgres.queries_yaml())) <= declared
    labels = {
        f"{name}_{column}": {label for label, each in query.columns.items() if each.usage == "LABEL"}
        for name, query in postgres.queries().items()
        for column in query.columns
    }
    for name in declared:
        assert set(foreign_series.BY_NAME[name].labels) == labels[name], name


def test_file_is_yaml_of_queries() -> None:
    """The exporter's file has one entry for each query, with its SQL whole."""
    document = yaml.safe_load(postgres.queries_yaml())
    assert {name: entry["query"] for name, entry in document.items()} == {
        name: query.query for name, query in postgres.queries().items()
    }


def test_every_series_comes(scraped: Exporter) -> None:
    """A primary without standby gives every series but those of standbys, and the exporter sees no error."""
    samples = scraped.until(lambda found: ORDERS in found.get("trunkline_pg_bloat_table_bytes", {}))
    assert set(postgres.names()) - set(samples) == STANDBY
    assert samples["pg_exporter_last_scrape_error"][()] == 0, scraped.log.read_text()
    assert samples["pg_up"][()] == 1


def test_series_of_the_exporter_that_rules_name_come(scraped: Exporter) -> None:
    """Each series that is declared as the exporter's own is in its answer, with the labels that rules use."""
    samples = scraped.samples()
    for each in foreign_series.SERIES:
        if each.source == "postgres_exporter" and not each.name.startswith("trunkline_pg_"):
            assert each.name in samples, each.name
            labels = {label for key in samples[each.name] for label, _ in key}
            assert set(each.labels) <= labels, each.name


def test_connections(server: Postgres, scraped: Exporter) -> None:
    """Clients are counted, and what they may have is max_connections without the reserved."""
    before = scraped.samples()["trunkline_pg_connections_used"][()]
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(server.session("shop"))
        samples = scraped.until(lambda found: found["trunkline_pg_connections_used"][()] == before + 3)
        assert samples["trunkline_pg_connections_usable"][()] == 97


def test_dead_rows_and_bloat(server: Postgres, scraped: Exporter, queries: Path) -> None:
    """Deleted rows are dead until vacuum, and empty space after it; the table's own limits say when it is due."""
    due = 50 + 0.2 * 20_000
    samples = scraped.until(lambda found: table(found, "live_rows") == 20_000)
    assert table(samples, "vacuum_due_rows") == pytest.approx(due)
    assert table(samples, "vacuum_age_seconds") < 60
    server.sql("DELETE FROM orders WHERE id % 4 <> 0", database="shop")
    # Another exporter, for this one may answer with what it has asked 30 s ago.
    with exporter(server, queries) as fresh:
        samples = fresh.samples()
        assert table(samples, "dead_rows") == 15_000
        assert table(samples, "live_rows") == 5_000
        assert samples["trunkline_pg_bloat_wasted_bytes"][ORDERS] < 0.1 * bloat(samples)
    server.sql("VACUUM ANALYZE orders", "ALTER TABLE orders SET (autovacuum_vacuum_threshold = 7)", database="shop")
    with exporter(server, queries) as fresh:
        samples = fresh.samples()
        assert table(samples, "dead_rows") == 0
        assert table(samples, "vacuum_due_rows") == pytest.approx(7 + 0.2 * 5_000)
        assert samples["trunkline_pg_bloat_wasted_bytes"][ORDERS] == pytest.approx(0.75 * bloat(samples), rel=0.1)


def test_slow_statement(server: Postgres, scraped: Exporter) -> None:
    """Its time over its calls is how long it takes, under the id that pg_stat_statements gives it."""
    server.sql("SELECT pg_sleep(0.3)", "SELECT pg_sleep(0.3)", database="shop")
    found = server.sql("SELECT queryid FROM pg_stat_statements WHERE query = 'SELECT pg_sleep($1)'")
    key = (*SHOP, ("queryid", found))
    samples = scraped.until(lambda now: key in now["trunkline_pg_statement_calls"])
    assert samples["trunkline_pg_statement_calls"][key] == 2
    assert 0.6 <= samples["trunkline_pg_statement_seconds"][key] < 3
    assert samples["trunkline_pg_statement_rows"][key] == 2
    assert "pg_sleep" not in scraped.text(), "texts of statements stay in the database"


def test_rollback_and_deadlock(server: Postgres, scraped: Exporter) -> None:
    """Both are counted for their database, and who waits for a lock is seen while it waits."""
    before = scraped.samples()
    server.sql("CREATE TABLE pairs (id int PRIMARY KEY)", "INSERT INTO pairs VALUES (1), (2)", database="shop")
    server.sql("BEGIN", "ROLLBACK", database="shop")
    sessions = server.session("shop"), server.session("shop")
    for mine, session in enumerate(sessions, 1):
        say(session, f"BEGIN; SELECT id FROM pairs WHERE id = {mine} FOR UPDATE;")
        assert session.stdout is not None
        assert session.stdout.readline().strip() == str(mine)
    say(sessions[0], "SELECT id FROM pairs WHERE id = 2 FOR UPDATE;")
    scraped.until(lambda found: found["trunkline_pg_activity_waiting_for_locks"][SHOP] == 1)
    assert scraped.samples()["trunkline_pg_activity_longest_transaction_seconds"][SHOP] > 0
    say(sessions[1], "SELECT id FROM pairs WHERE id = 1 FOR UPDATE;")
    errors = [session.communicate(timeout=patient(20))[1] for session in sessions]
    assert sum("deadlock detected" in error for error in errors) == 1, errors
    after = scraped.until(lambda found: grown(before, found, "pg_stat_database_deadlocks") == 1)
    assert grown(before, after, "pg_stat_database_xact_rollback") >= 2
    assert after["trunkline_pg_activity_waiting_for_locks"][SHOP] == 0


def test_idle_in_transaction(server: Postgres, scraped: Exporter) -> None:
    """A client that idles in a transaction is seen, one that dumps is not counted as long."""
    with server.session("shop") as session:
        say(session, "BEGIN; SELECT 1;")
        scraped.until(lambda found: found["trunkline_pg_activity_longest_idle_in_transaction_seconds"][SHOP] > 0.2)
        say(session, "SET application_name = 'pg_dump';")
        scraped.until(lambda found: found["trunkline_pg_activity_longest_transaction_seconds"][SHOP] == 0)
        session.communicate()
    scraped.until(lambda found: found["trunkline_pg_activity_longest_idle_in_transaction_seconds"][SHOP] == 0)


def test_transaction_ids(server: Postgres, scraped: Exporter) -> None:
    """Ages grow with transactions, and every database has one."""
    before = scraped.samples()["trunkline_pg_database_transaction_id_age"]
    assert set(before) >= {(("datname", "template0"),), SHOP}
    server.sql(*["CREATE TEMP TABLE used (); DROP TABLE used"] * 3, database="shop")
    scraped.until(lambda found: found["trunkline_pg_database_transaction_id_age"][SHOP] >= before[SHOP] + 3)


def test_standby_that_is_behind(server: Postgres, queries: Path) -> None:
    """A standby that is up to date has no lag; one whose replay stands still has, on both sides."""
    with standby(server) as replica, exporter(replica, queries) as there, exporter(server, queries) as here:
        key = (("standby", "walreceiver"),)
        there.until(lambda found: found.get("trunkline_pg_replica_lag_seconds", {}).get(()) == 0)
        here.until(lambda found: found.get("trunkline_pg_standby_lag_bytes", {}).get(key) == 0)
        replica.sql("SELECT pg_wal_replay_pause()")
        server.sql("CREATE TABLE late AS SELECT n FROM generate_series(1, 1000) n", database="shop")
        there.until(lambda found: found["trunkline_pg_replica_lag_seconds"][()] > 0)
        assert here.samples()["trunkline_pg_standby_lag_bytes"][key] > 1000
        replica.sql("SELECT pg_wal_replay_resume()")
        there.until(lambda found: found["trunkline_pg_replica_lag_seconds"][()] == 0)
        assert there.samples()["pg_exporter_last_scrape_error"][()] == 0, there.log.read_text()


def test_without_the_extension_nothing_fails(queries: Path) -> None:
    """A server that does not count statements, asked by a role that may only monitor: no series, and no error."""
    with ExitStack() as stack:
        life = stack.enter_context(ExitStack())
        plain = life.enter_context(new())
        plain.sql("CREATE ROLE watcher LOGIN IN ROLE pg_monitor")
        running = stack.enter_context(exporter(plain, queries, user="watcher"))
        samples = running.samples()
        life.close()
        # And when the server goes, the exporter stays and says so.
        running.until(lambda found: found["pg_up"][()] == 0)
    assert "trunkline_pg_statement_calls" not in samples
    assert samples["pg_exporter_last_scrape_error"][()] == 0, running.log.read_text()
    assert samples["trunkline_pg_connections_usable"][()] == 97


def test_no_query_names_a_table_of_users_or_waits_for_its_lock() -> None:
    """Sizes and pages of tables are read from statistics: functions that open a table are not used."""
    for name, query in postgres.queries().items():
        for opening in ("pg_relation_size", "pg_total_relation_size", "pg_table_size", "pgstattuple", "pg_get_expr"):
            assert opening not in query.query, name


def table(samples: Samples, column: str) -> float:
    """A number of the table of orders."""
    return samples[f"trunkline_pg_table_{column}"].get(ORDERS, -1)


def bloat(samples: Samples) -> float:
    """Bytes of the table of orders."""
    return samples["trunkline_pg_bloat_table_bytes"][ORDERS]


def grown(before: Samples, after: Samples, name: str) -> float:
    """How much a counter of the shop grew."""
    return of_shop(after[name]) - of_shop(before[name])


def of_shop(by_labels: dict[tuple[tuple[str, str], ...], float]) -> float:
    """The value of the shop's database, whatever the other labels are."""
    return next(value for key, value in by_labels.items() if ("datname", "shop") in key)


def say(session: subprocess.Popen[str], statement: str) -> None:
    """Send a statement to a client that stays."""
    assert session.stdin is not None
    session.stdin.write(statement + "\n")
    session.stdin.flush()
