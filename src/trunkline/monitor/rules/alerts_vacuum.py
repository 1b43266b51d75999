"""Alerts on what vacuum is for: dead rows, bloat, and transaction ids that run out; from our queries. Pure.

Rules:

- Dead rows are normal until autovacuum is due: a table alerts when it is far beyond that, or when nobody came.
- Small tables are not worth a message, whatever their ratios are.
"""

from __future__ import annotations

from trunkline.monitor.rules.rule import Alert, Case

_LABELS = {"scope": "postgres"}
_SHOP = 'job="postgres",instance="db1:9187",server="10.0.0.5:5432",datname="shop"'
_ORDERS = _SHOP + ',schemaname="public",relname="orders"'
_FIRES_SHOP = {"instance": "db1:9187", "datname": "shop", **_LABELS}
_FIRES_ORDERS = _FIRES_SHOP | {"schemaname": "public", "relname": "orders"}
_TABLE = "by (instance, datname, schemaname, relname)"
_GIGABYTE = 1_000_000_000
_IDS = 2**31
"""Ids of each kind that can be told apart: half of them are the past."""


def _of_database(name: str) -> str:
    return f"max by (instance, datname) ({name})"


def _of_table(name: str) -> str:
    return f"max {_TABLE} ({name})"


def _table(live: int, dead: int, due: int, age: int) -> dict[str, str]:
    return {
        f"trunkline_pg_table_live_rows{{{_ORDERS}}}": f"{live}x100",
        f"trunkline_pg_table_dead_rows{{{_ORDERS}}}": f"{dead}x100",
        f"trunkline_pg_table_vacuum_due_rows{{{_ORDERS}}}": f"{due}x100",
        f"trunkline_pg_table_vacuum_age_seconds{{{_ORDERS}}}": f"{age}+15x100",
    }


def _bloat(table: int, wasted: int) -> dict[str, str]:
    return {
        f"trunkline_pg_bloat_table_bytes{{{_ORDERS}}}": f"{table}x100",
        f"trunkline_pg_bloat_wasted_bytes{{{_ORDERS}}}": f"{wasted}x100",
    }


ALERTS: tuple[Alert, ...] = (
    Alert(
        name="TrunklinePostgresTransactionIdsAge",
        expr=(
            f"{_of_database('trunkline_pg_database_transaction_id_age')} / {_IDS} > 0.25 "
            f"or {_of_database('trunkline_pg_database_multixact_id_age')} / {_IDS} > 0.25"
        ),
        severity="warning",
        lasts="15m",
        summary=(
            "Database {{ $labels.datname }} at {{ $labels.instance }} has used {{ $value | humanizePercentage }} "
            "of its transaction ids"
        ),
        description="Vacuum does not freeze old rows as it should. At 100 % PostgreSQL accepts no more writes.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"trunkline_pg_database_transaction_id_age{{{_SHOP}}}": "644245094x100"},
                "20m",
                _FIRES_SHOP,
                "Database shop at db1:9187 has used 30% of its transaction ids",
            ),
            Case(
                {
                    f"trunkline_pg_database_transaction_id_age{{{_SHOP}}}": "210000000x100",
                    f"trunkline_pg_database_multixact_id_age{{{_SHOP}}}": "858993459x100",
                },
                "20m",
                _FIRES_SHOP,
                "Database shop at db1:9187 has used 40% of its transaction ids",
            ),
            # Where autovacuum begins to freeze by itself.
            Case({f"trunkline_pg_database_transaction_id_age{{{_SHOP}}}": "210000000x100"}, "20m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresTransactionIdsExhausted",
        expr=(
            f"{_of_database('trunkline_pg_database_transaction_id_age')} / {_IDS} > 0.6 "
            f"or {_of_database('trunkline_pg_database_multixact_id_age')} / {_IDS} > 0.6"
        ),
        severity="critical",
        lasts="5m",
        summary=(
            "Database {{ $labels.datname }} at {{ $labels.instance }} has used {{ $value | humanizePercentage }} "
            "of its transaction ids: it stops at 100%"
        ),
        description="Vacuum it today. At 100 % PostgreSQL accepts no more writes until it was vacuumed.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"trunkline_pg_database_transaction_id_age{{{_SHOP}}}": "1503238554x100"},
                "10m",
                _FIRES_SHOP,
                "Database shop at db1:9187 has used 70% of its transaction ids: it stops at 100%",
            ),
            Case({f"trunkline_pg_database_transaction_id_age{{{_SHOP}}}": "644245094x100"}, "10m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresDeadRows",
        expr=(
            f"{_of_table('trunkline_pg_table_dead_rows')} "
            f"/ ({_of_table('trunkline_pg_table_dead_rows')} + {_of_table('trunkline_pg_table_live_rows')} > 0) > 0.3 "
            f"and {_of_table('trunkline_pg_table_dead_rows')} > 10000"
        ),
        severity="warning",
        lasts="15m",
        summary=(
            "{{ $value | humanizePercentage }} of the rows of {{ $labels.schemaname }}.{{ $labels.relname }} "
            "in {{ $labels.datname }} at {{ $labels.instance }} are dead"
        ),
        description="Vacuum does not keep up, or cannot remove them: every query reads them, and the table grows.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                _table(60_000, 40_000, 12_050, 3600),
                "20m",
                _FIRES_ORDERS,
                "40% of the rows of public.orders in shop at db1:9187 are dead",
            ),
            Case(_table(90_000, 12_000, 18_050, 3600), "20m"),
            # A small table, vacuumed when it is its turn.
            Case(_table(100, 900, 50, 60), "20m"),
            Case(_table(0, 0, 50, 60), "20m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresVacuumOverdue",
        expr=(
            f"{_of_table('trunkline_pg_table_vacuum_age_seconds')} > 86400 "
            f"and {_of_table('trunkline_pg_table_dead_rows')} > {_of_table('trunkline_pg_table_vacuum_due_rows')} "
            f"and {_of_table('trunkline_pg_table_dead_rows')} > 1000"
        ),
        severity="warning",
        lasts="15m",
        summary=(
            "{{ $labels.schemaname }}.{{ $labels.relname }} in {{ $labels.datname }} at {{ $labels.instance }} "
            "is due for vacuum and had none for {{ $value | humanizeDuration }}"
        ),
        description="Autovacuum is off for it, is always interrupted by locks, or its workers are busy elsewhere.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                _table(90_000, 20_000, 18_050, 172_800),
                "20m",
                _FIRES_ORDERS,
                "public.orders in shop at db1:9187 is due for vacuum and had none for 2d 0h 20m 0s",
            ),
            Case(_table(500, 600, 150, 172_800), "20m"),
            # Long ago, but nothing to do.
            Case(_table(90_000, 2_000, 18_050, 1_728_000), "20m"),
            Case(_table(90_000, 20_000, 18_050, 3600), "20m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresBloat",
        expr=(
            f"{_of_table('trunkline_pg_bloat_wasted_bytes')} / {_of_table('trunkline_pg_bloat_table_bytes')} > 0.5 "
            f"and {_of_table('trunkline_pg_bloat_wasted_bytes')} > {_GIGABYTE}"
        ),
        severity="info",
        lasts="15m",
        summary=(
            "{{ $value | humanizePercentage }} of {{ $labels.schemaname }}.{{ $labels.relname }} "
            "in {{ $labels.datname }} at {{ $labels.instance }} is empty space, by estimate"
        ),
        description="Scans read pages that hold little. New rows will use the space; only a rewrite gives it back.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                _bloat(8 * _GIGABYTE, 6 * _GIGABYTE),
                "20m",
                _FIRES_ORDERS,
                "75% of public.orders in shop at db1:9187 is empty space, by estimate",
            ),
            Case(_bloat(8 * _GIGABYTE, 2 * _GIGABYTE), "20m"),
            Case(_bloat(_GIGABYTE // 10, _GIGABYTE // 12), "20m"),
        ),
    ),
)
