"""What postgres_exporter is told to ask besides its own questions: bloat, vacuum, statements, connections, lag. Pure.

Rules:

- Every series begins with `trunkline_pg_`, so the file goes with every exporter that knows `--extend.query-path`: newer
  ones have collectors of their own (see `NEWER`), and two series of one name would fail the whole scrape.
- A query reads catalogues and statistics only. None takes a lock on a table or reads its pages: a scrape must not hang
  behind an `ALTER TABLE`, nor warm the cache with a table that nobody uses.
- Cardinality has a limit: the 100 largest tables, the 50 statements that took most time. Texts of statements stay in
  the database, for they can hold what people typed; `queryid` leads there.
- A query whose subject is absent (no standby, no extension) answers with no rows, never with an error.
- A role with `pg_monitor` can run all of them; bloat also needs `pg_read_all_data`, without it those series are absent.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from trunkline.monitor.text.yaml_text import Document, dump

Usage = Literal["LABEL", "GAUGE", "COUNTER"]

NEWER: dict[str, str] = {
    "trunkline_pg_table_live_rows": "stat_user_tables (0.13, on): pg_stat_user_tables_n_live_tup",
    "trunkline_pg_table_dead_rows": "stat_user_tables (0.13, on): pg_stat_user_tables_n_dead_tup",
    "trunkline_pg_table_vacuum_age_seconds": "stat_user_tables (0.13, on): pg_stat_user_tables_last_autovacuum",
    "trunkline_pg_statement_calls": "stat_statements (0.13, off): pg_stat_statements_calls_total",
    "trunkline_pg_statement_seconds": "stat_statements (0.13, off): pg_stat_statements_seconds_total",
    "trunkline_pg_activity_longest_transaction_seconds": (
        "long_running_transactions (0.14, off): pg_long_running_transactions_oldest_timestamp_seconds"
    ),
    "trunkline_pg_database_transaction_id_age": (
        "database_wraparound (0.14, off): pg_database_wraparound_age_datfrozenxid_seconds"
    ),
    "trunkline_pg_replica_lag_seconds": "replication (0.13, on): pg_replication_lag_seconds",
}
"""The collector of newer exporters that gives much the same: its name, since when, whether it is on by itself."""


class Column(NamedTuple):
    """One column of a query: a label, or a series named `<query>_<column>`.

    Attributes:
        name: as the SQL calls it.
        usage: what the exporter makes of it.
        help: one sentence, the series' HELP.
    """

    name: str
    usage: Usage
    help: str


class Query(NamedTuple):
    """One query.

    Attributes:
        name: begins every series that it gives.
        sql: what is asked.
        columns: what comes back.
        once: asked in one database and true for the whole server; otherwise in each database that the exporter visits.
        cache_seconds: how long an answer is good, for queries that cost more than a look at the counters.
    """

    name: str
    sql: str
    columns: tuple[Column, ...]
    once: bool = True
    cache_seconds: int = 0


_DATABASE = Column("datname", "LABEL", "Database.")
_TABLE = (
    _DATABASE,
    Column("schemaname", "LABEL", "Schema of the table."),
    Column("relname", "LABEL", "Table."),
)

_CONNECTIONS = """\
SELECT
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
  current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int AS usable
"""

# A dump and a vacuum hold a transaction open for hours and are right to do so: neither counts as long.
_ACTIVITY = """\
SELECT
  d.datname,
  coalesce(max(extract(epoch FROM clock_timestamp() - a.xact_start))
    FILTER (WHERE a.application_name <> 'pg_dump'), 0) AS longest_transaction_seconds,
  coalesce(max(extract(epoch FROM clock_timestamp() - a.state_change))
    FILTER (WHERE a.state LIKE 'idle in transaction%'), 0) AS longest_idle_in_transaction_seconds,
  count(*) FILTER (WHERE a.wait_event_type = 'Lock') AS waiting_for_locks
FROM pg_database d
LEFT JOIN pg_stat_activity a ON a.datid = d.oid AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
WHERE d.datallowconn AND NOT d.datistemplate
GROUP BY d.datname
"""

_DATABASES = """\
SELECT datname, age(datfrozenxid) AS transaction_id_age, mxid_age(datminmxid) AS multixact_id_age
FROM pg_database
"""

# The view exists only where somebody made the extension, and fails where its library is not loaded; a query that names
# it would then be an error at every scrape. So it is named in a text, which runs only when both are there.
_STATEMENTS = """\
WITH answer AS (
  SELECT CASE
    WHEN to_regclass('pg_stat_statements') IS NOT NULL AND current_setting('pg_stat_statements.max', true) IS NOT NULL
    THEN query_to_xml(
      'SELECT d.datname, s.queryid, sum(s.calls) AS calls,
         sum(s.total_exec_time) / 1000 AS seconds, sum(s.rows) AS rows
       FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
       WHERE s.queryid IS NOT NULL
       GROUP BY 1, 2 ORDER BY 4 DESC LIMIT 50', false, false, '')
  END AS found
)
SELECT t.*
FROM answer, XMLTABLE('/table/row' PASSING answer.found COLUMNS
  datname text, queryid text, calls float8, seconds float8, rows float8) AS t
"""

# due: what autovacuum waits for, with the table's own settings before the server's. Age: since the last vacuum of any
# kind, or since the server started when there never was one, for statistics may be younger than the table.
_TABLES = """\
SELECT
  current_database() AS datname, s.schemaname, s.relname,
  s.n_live_tup AS live_rows,
  s.n_dead_tup AS dead_rows,
  coalesce(o.threshold, current_setting('autovacuum_vacuum_threshold')::float8)
    + coalesce(o.scale_factor, current_setting('autovacuum_vacuum_scale_factor')::float8) * greatest(c.reltuples, 0)
    AS vacuum_due_rows,
  extract(epoch FROM now() - coalesce(greatest(s.last_vacuum, s.last_autovacuum), pg_postmaster_start_time()))
    AS vacuum_age_seconds
FROM pg_stat_user_tables s
JOIN pg_class c ON c.oid = s.relid
CROSS JOIN LATERAL (
  SELECT
    max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_threshold')::float8 AS threshold,
    max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_scale_factor')::float8 AS scale_factor
  FROM pg_options_to_table(c.reloptions)
) o
WHERE c.relpersistence <> 't'
ORDER BY s.n_live_tup + s.n_dead_tup DESC
LIMIT 100
"""

# An estimate from what ANALYZE left: rows times (4 bytes of item pointer + 24 of header + data, on the 8 bytes that
# rows are aligned to), over what a page holds at the table's fillfactor. Pages and rows are of the same moment, so the
# ratio is right even when both are old. Tables below 1 MB are left out, and those with a column that was never
# analyzed. Indexes and out-of-line values are not in it.
_BLOAT = """\
WITH widths AS (
  SELECT
    c.oid, n.nspname, c.relname, c.reltuples, c.relpages,
    current_setting('block_size')::float8 AS page,
    coalesce((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), 100)
      / 100 AS fill,
    sum((1 - s.null_frac) * s.avg_width) AS data
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
    AND NOT s.inherited
  WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.reltuples > 0
    AND c.relpages * current_setting('block_size')::bigint >= 1048576
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  GROUP BY c.oid, n.nspname, c.relname, c.reltuples, c.relpages, c.reloptions
  HAVING count(*) = count(s.attname)
)
SELECT
  current_database() AS datname, nspname AS schemaname, relname,
  relpages * page AS table_bytes,
  greatest(relpages - ceil(reltuples / greatest(floor((page - 24) * fill / (4 + 24 + ceil(data / 8) * 8)), 1)), 0)
    * page AS wasted_bytes
FROM widths
ORDER BY relpages DESC
LIMIT 100
"""

# A standby that has replayed all it received is not late, however quiet its primary is; unless it receives no more.
# One that has replayed nothing yet is late since its start.
_REPLICA = """\
SELECT CASE
  WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
  ELSE greatest(extract(epoch FROM now() - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time())), 0)
END AS lag_seconds
WHERE pg_is_in_recovery()
"""

_STANDBY = """\
SELECT
  coalesce(nullif(application_name, ''), client_addr::text, 'local') AS standby,
  max(pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, replay_lsn))
    AS lag_bytes
FROM pg_stat_replication
WHERE replay_lsn IS NOT NULL
GROUP BY 1
"""

QUERIES: tuple[Query, ...] = (
    Query(
        "trunkline_pg_connections",
        _CONNECTIONS,
        (
            Column("used", "GAUGE", "Connections of clients."),
            Column("usable", "GAUGE", "Connections that clients may have: max_connections without the reserved ones."),
        ),
    ),
    Query(
        "trunkline_pg_activity",
        _ACTIVITY,
        (
            _DATABASE,
            Column("longest_transaction_seconds", "GAUGE", "Age of the oldest open transaction of a client."),
            Column("longest_idle_in_transaction_seconds", "GAUGE", "Longest time a client idles in a transaction."),
            Column("waiting_for_locks", "GAUGE", "Clients that wait for a lock."),
        ),
    ),
    Query(
        "trunkline_pg_database",
        _DATABASES,
        (
            _DATABASE,
            Column("transaction_id_age", "GAUGE", "Transactions since the oldest unfrozen one; the end is 2^31."),
            Column("multixact_id_age", "GAUGE", "Multixacts since the oldest unfrozen one; the end is 2^31."),
        ),
    ),
    Query(
        "trunkline_pg_statement",
        _STATEMENTS,
        (
            _DATABASE,
            Column("queryid", "LABEL", "Its id in pg_stat_statements."),
            Column("calls", "COUNTER", "Executions of the statement."),
            Column("seconds", "COUNTER", "Time spent executing the statement."),
            Column("rows", "COUNTER", "Rows that the statement gave or changed."),
        ),
    ),
    Query(
        "trunkline_pg_table",
        _TABLES,
        (
            *_TABLE,
            Column("live_rows", "GAUGE", "Rows in use, estimated."),
            Column("dead_rows", "GAUGE", "Rows that wait for vacuum, estimated."),
            Column("vacuum_due_rows", "GAUGE", "Dead rows at which autovacuum comes."),
            Column("vacuum_age_seconds", "GAUGE", "Time since the last vacuum, or since the server's start."),
        ),
        once=False,
        cache_seconds=30,
    ),
    Query(
        "trunkline_pg_bloat",
        _BLOAT,
        (
            *_TABLE,
            Column("table_bytes", "GAUGE", "Size of the table as of its last vacuum or analyze."),
            Column("wasted_bytes", "GAUGE", "Bytes that its rows would not need, estimated."),
        ),
        once=False,
        cache_seconds=300,
    ),
    Query(
        "trunkline_pg_replica",
        _REPLICA,
        (Column("lag_seconds", "GAUGE", "How far this standby is behind its primary."),),
    ),
    Query(
        "trunkline_pg_standby",
        _STANDBY,
        (
            Column("standby", "LABEL", "Name or address of the standby."),
            Column("lag_bytes", "GAUGE", "Log that the standby has not replayed yet."),
        ),
    ),
)


def names() -> tuple[str, ...]:
    """Every series that these queries give."""
    return tuple(
        f"{query.name}_{column.name}" for query in QUERIES for column in query.columns if column.usage != "LABEL"
    )


def queries_yaml() -> str:
    """The file for `--extend.query-path`."""
    document: Document = {query.name: _entry(query) for query in QUERIES}
    return dump(
        document,
        "Run: prometheus-postgres-exporter --extend.query-path=THIS_FILE --auto-discover-databases",
        "Newer exporters have collectors for some of it, under other names; our rules use the names of this file:",
        *(f"  {ours}: {theirs}" for ours, theirs in NEWER.items()),
    )


def _entry(query: Query) -> Document:
    entry: Document = {"query": query.sql, "master": query.once}
    if query.cache_seconds:
        entry["cache_seconds"] = query.cache_seconds
    entry["metrics"] = [{each.name: {"usage": each.usage, "description": each.help}} for each in query.columns]
    return entry
