"""PostgreSQL, from postgres_exporter and the queries that `postgres_queries.py` adds to it."""

from __future__ import annotations

from trunkline.monitor.dashboards.panels import (
    CAPACITY,
    GREEN,
    RED,
    YELLOW,
    Board,
    Panel,
    Query,
    Row,
    of,
    one,
    per_minute,
    rate,
    total,
)

TABLE = "{{datname}} {{schemaname}}.{{relname}}"
COMMITS, ROLLBACKS = rate("pg_stat_database_xact_commit"), rate("pg_stat_database_xact_rollback")
HITS, READS = rate("pg_stat_database_blks_hit"), rate("pg_stat_database_blks_read")

CONNECTIONS = Row(
    "Connections and transactions",
    (
        Panel(
            title="PostgreSQL up",
            about="Whether the exporter answers, gets an answer from its server, and had no error at the last scrape.",
            unit="none",
            queries=(
                Query(of("up"), "exporter {{instance}}"),
                Query(of("pg_up"), "server {{instance}}"),
                Query(f"1 - {of('pg_exporter_last_scrape_error')}", "scrape {{instance}}"),
            ),
            shape="states",
            limits=((None, RED), (1.0, GREEN)),
            words=((0.0, "down", RED), (1.0, "up", GREEN)),
        ),
        Panel(
            title="Connections used",
            about="Connections of clients, of those not kept for superusers. At 100 % applications are refused.",
            unit="percent",
            queries=one(
                f"100 * {of('trunkline_pg_connections_used')} / {of('trunkline_pg_connections_usable')}", "{{instance}}"
            ),
            limits=CAPACITY,
            most=100,
        ),
        Panel(
            title="Connections by state",
            about="Sessions by what they do. Idle in a transaction holds locks and keeps vacuum from its work.",
            unit="short",
            queries=one(total(of("pg_stat_activity_count"), "state"), "{{state}}"),
            shape="stack",
        ),
        Panel(
            title="Transactions",
            about="Transactions committed and rolled back per second.",
            unit="cps",
            queries=(
                Query(total(COMMITS, "datname"), "{{datname}} commits"),
                Query(total(ROLLBACKS, "datname"), "{{datname}} rollbacks"),
            ),
        ),
        Panel(
            title="Rollbacks, share",
            about="Transactions rolled back, of all. A rise is an application that meets errors.",
            unit="percent",
            queries=one(
                f"100 * {total(ROLLBACKS, 'datname')} / ({total(f'{COMMITS} + {ROLLBACKS}', 'datname')} > 0)",
                "{{datname}}",
            ),
            most=100,
        ),
        Panel(
            title="Longest transaction",
            about="Age of the oldest open transaction, and of the oldest that does nothing.",
            unit="s",
            queries=(
                Query(of("trunkline_pg_activity_longest_transaction_seconds"), "{{datname}}"),
                Query(
                    of("trunkline_pg_activity_longest_idle_in_transaction_seconds"), "{{datname}}, idle in transaction"
                ),
            ),
        ),
        Panel(
            title="Deadlocks per minute",
            about="Transactions that were ended because they waited for each other.",
            unit="cpm",
            queries=one(per_minute("pg_stat_database_deadlocks", "datname"), "{{datname}}"),
        ),
        Panel(
            title="Locks",
            about="Locks held or waited for, by mode.",
            unit="short",
            queries=one(f"{total(of('pg_locks_count'), 'mode')} > 0", "{{mode}}"),
            shape="stack",
        ),
        Panel(
            title="Sessions that wait for a lock",
            about="Sessions that cannot go on until another ends its transaction.",
            unit="short",
            queries=one(of("trunkline_pg_activity_waiting_for_locks"), "{{datname}}"),
        ),
    ),
)

QUERIES = Row(
    "Queries",
    (
        Panel(
            title="Rows",
            about="Rows returned, fetched and changed per second.",
            unit="cps",
            queries=tuple(
                Query(total(rate(f"pg_stat_database_tup_{what}")), what)
                for what in ("returned", "fetched", "inserted", "updated", "deleted")
            ),
        ),
        Panel(
            title="Found in memory",
            about="Blocks found in PostgreSQL's own cache, of all blocks asked for.",
            unit="percent",
            queries=one(
                f"100 * {total(HITS, 'datname')} / ({total(f'{HITS} + {READS}', 'datname')} > 0)", "{{datname}}"
            ),
            limits=((None, RED), (90.0, YELLOW), (99.0, GREEN)),
            most=100,
        ),
        Panel(
            title="Temporary files",
            about="Bytes per second that sorts and joins wrote to disk because work_mem was too small.",
            unit="Bps",
            queries=one(total(rate("pg_stat_database_temp_bytes"), "datname"), "{{datname}}"),
        ),
        Panel(
            title="Mean time of the slowest statements",
            about="Mean time of the five slowest statements, from pg_stat_statements. queryid leads to the text there.",
            unit="s",
            queries=one(
                f"topk(5, {rate('trunkline_pg_statement_seconds')} / ({rate('trunkline_pg_statement_calls')} > 0))",
                "{{datname}} {{queryid}}",
            ),
        ),
        Panel(
            title="Statements that take most time",
            about="Seconds spent per second in the five statements that take most, from pg_stat_statements.",
            unit="none",
            queries=one(f"topk(5, {rate('trunkline_pg_statement_seconds')})", "{{datname}} {{queryid}}"),
        ),
        Panel(
            title="Rows per call",
            about="Rows that the five most generous statements return or change at each call.",
            unit="short",
            queries=one(
                f"topk(5, {rate('trunkline_pg_statement_rows')} / ({rate('trunkline_pg_statement_calls')} > 0))",
                "{{datname}} {{queryid}}",
            ),
        ),
    ),
)

VACUUM = Row(
    "Vacuum, bloat and size",
    (
        Panel(
            title="Dead rows, share",
            about="Dead rows of all rows, for the ten worst tables.",
            unit="percent",
            queries=one(
                f"topk(10, 100 * {of('trunkline_pg_table_dead_rows')} / ({of('trunkline_pg_table_dead_rows')}"
                f" + {of('trunkline_pg_table_live_rows')} > 0))",
                TABLE,
            ),
            most=100,
        ),
        Panel(
            title="Dead rows beside autovacuum's limit",
            about="Dead rows as a multiple of what makes autovacuum start. Above 1 for long, it does not keep up.",
            unit="none",
            queries=one(
                f"topk(10, {of('trunkline_pg_table_dead_rows')} / ({of('trunkline_pg_table_vacuum_due_rows')} > 0))",
                TABLE,
            ),
            limits=((None, GREEN), (1.0, YELLOW), (2.0, RED)),
        ),
        Panel(
            title="Since the last vacuum",
            about="Time since each table was vacuumed, by hand or by itself.",
            unit="s",
            queries=one(f"topk(10, {of('trunkline_pg_table_vacuum_age_seconds')})", TABLE),
        ),
        Panel(
            title="Bloat, share",
            about="Estimated share of each table's file that holds nothing, from the statistics of the last analyze.",
            unit="percent",
            queries=one(
                f"topk(10, 100 * {of('trunkline_pg_bloat_wasted_bytes')}"
                f" / ({of('trunkline_pg_bloat_table_bytes')} > 0))",
                TABLE,
            ),
            most=100,
        ),
        Panel(
            title="Bloat",
            about="Estimated bytes that hold nothing, for the ten worst tables.",
            unit="bytes",
            queries=one(f"topk(10, {of('trunkline_pg_bloat_wasted_bytes')})", TABLE),
        ),
        Panel(
            title="Database size",
            about="Bytes of each database on disk.",
            unit="bytes",
            queries=one(total(of("pg_database_size_bytes"), "datname"), "{{datname}}"),
        ),
        Panel(
            title="Age of transaction ids",
            about="Transactions since the oldest that a database still needs. At two billion PostgreSQL stops.",
            unit="short",
            queries=(
                Query(of("trunkline_pg_database_transaction_id_age"), "{{datname}}"),
                Query(of("trunkline_pg_database_multixact_id_age"), "{{datname}} multixact"),
            ),
            limits=((None, GREEN), (500_000_000.0, YELLOW), (1_000_000_000.0, RED)),
        ),
        Panel(
            title="Replication lag",
            about="How far a replica is behind, and how many bytes each standby has still to replay.",
            unit="s",
            queries=one(of("trunkline_pg_replica_lag_seconds"), "{{instance}}"),
        ),
        Panel(
            title="Standby lag",
            about="Bytes of the write-ahead log that each standby has still to replay.",
            unit="bytes",
            queries=one(of("trunkline_pg_standby_lag_bytes"), "{{standby}}"),
        ),
    ),
)

BOARD = Board(
    uid="trunkline-postgres",
    title="Trunkline: PostgreSQL",
    about="Connections, transactions, queries, vacuum and bloat of PostgreSQL.",
    tags=("postgresql",),
    root="pg_up",
    rows=(CONNECTIONS, QUERIES, VACUUM),
)
