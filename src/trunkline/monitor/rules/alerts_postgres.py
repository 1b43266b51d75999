"""Alerts on PostgreSQL, from postgres_exporter with our queries. Pure.

Rules:

- One exporter looks at one server, so a server is its `instance`; `server`, which only some versions of the exporter
  give, is taken away before two series are compared.
- Ratios of events are judged only where there are enough of them: one rollback at night is not 100 %.
- What only `postgres_queries.py` can see says so by its name, `trunkline_pg_…`; an exporter without those queries never
  fires these, and connections fall back on what every exporter has.
- What vacuum is for is in `alerts_vacuum.py`, evaluated in the same group.
"""

from __future__ import annotations

from trunkline.monitor.rules import alerts_vacuum
from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.settings.monitor import MonitorSettings

_LABELS = {"scope": "postgres"}
_DB1 = 'job="postgres",instance="db1:9187"'
_SHOP = _DB1 + ',server="10.0.0.5:5432",datname="shop"'
_FIRES = {"instance": "db1:9187", **_LABELS}
_FIRES_SHOP = _FIRES | {"datname": "shop"}


def _per_second(events: str) -> str:
    return f"sum by (instance, datname) (rate({events}[5m]))"


def _transactions(rollbacks: str, commits: str) -> dict[str, str]:
    return {
        f"pg_stat_database_xact_rollback{{{_SHOP}}}": rollbacks,
        f"pg_stat_database_xact_commit{{{_SHOP}}}": commits,
    }


def _connections(used: int, usable: int) -> dict[str, str]:
    return {
        f"trunkline_pg_connections_used{{{_DB1}}}": f"{used}x100",
        f"trunkline_pg_connections_usable{{{_DB1}}}": f"{usable}x100",
    }


_SERVER: tuple[Alert, ...] = (
    Alert(
        name="TrunklinePostgresDown",
        expr="min by (instance) (pg_up) == 0",
        severity="critical",
        lasts="1m",
        summary="The exporter {{ $labels.instance }} cannot reach its PostgreSQL (pg_up is {{ $value }})",
        description="The exporter runs, its database does not answer: down, full, or it refuses the log-in.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"pg_up{{{_DB1}}}": "1x10 0x20"},
                "5m",
                _FIRES,
                "The exporter db1:9187 cannot reach its PostgreSQL (pg_up is 0)",
            ),
            # A restart takes seconds.
            Case({f"pg_up{{{_DB1}}}": "1x10 0x2 1x20"}, "5m"),
            # The exporter itself is away: an alert on targets tells that.
            Case({f"pg_up{{{_DB1}}}": "1x10 stale"}, "5m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresScrapeErrors",
        expr="max by (instance) (pg_exporter_last_scrape_error) > 0",
        severity="warning",
        lasts="10m",
        summary="Queries of the exporter {{ $labels.instance }} fail (last_scrape_error is {{ $value }})",
        description="Some series are missing, and alerts on them are silent. The exporter's log names them.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"pg_exporter_last_scrape_error{{{_DB1}}}": "1x100"},
                "15m",
                _FIRES,
                "Queries of the exporter db1:9187 fail (last_scrape_error is 1)",
            ),
            Case({f"pg_exporter_last_scrape_error{{{_DB1}}}": "0x20 1x4 0x76"}, "15m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresConnectionsNearLimit",
        expr=(
            "(max by (instance) (trunkline_pg_connections_used) "
            "/ (max by (instance) (trunkline_pg_connections_usable) > 0) "
            "or sum by (instance) (pg_stat_activity_count) "
            "/ (max by (instance) (pg_settings_max_connections) "
            "- max by (instance) (pg_settings_superuser_reserved_connections))) > 0.8"
        ),
        severity="critical",
        lasts="5m",
        summary="PostgreSQL at {{ $labels.instance }}: {{ $value | humanizePercentage }} of connections are taken",
        description="At 100 % programs get errors instead of connections. Mostly a pool that is too large, or leaks.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                _connections(90, 97),
                "10m",
                _FIRES,
                "PostgreSQL at db1:9187: 92.78% of connections are taken",
            ),
            Case(
                {
                    f'pg_stat_activity_count{{{_SHOP},state="active"}}': "47x100",
                    f'pg_stat_activity_count{{{_SHOP},state="idle"}}': "40x100",
                    f"pg_settings_max_connections{{{_DB1}}}": "100x100",
                    f"pg_settings_superuser_reserved_connections{{{_DB1}}}": "3x100",
                },
                "10m",
                _FIRES,
                "PostgreSQL at db1:9187: 89.69% of connections are taken",
            ),
            Case(_connections(60, 97), "10m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresReplicaLags",
        expr="max by (instance) (trunkline_pg_replica_lag_seconds) > 30",
        severity="warning",
        lasts="5m",
        summary="The standby at {{ $labels.instance }} is {{ $value | humanizeDuration }} behind its primary",
        description="Reads from it are old, and a failover now would lose or delay that much.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"trunkline_pg_replica_lag_seconds{{{_DB1}}}": "95x100"},
                "10m",
                _FIRES,
                "The standby at db1:9187 is 1m 35s behind its primary",
            ),
            Case({f"trunkline_pg_replica_lag_seconds{{{_DB1}}}": "2x100"}, "10m"),
            # A primary has no lag at all.
            Case({f"trunkline_pg_connections_used{{{_DB1}}}": "2x100"}, "10m"),
        ),
    ),
)

_WORK: tuple[Alert, ...] = (
    Alert(
        name="TrunklinePostgresRollbacks",
        expr=(
            f"{_per_second('pg_stat_database_xact_rollback')} / "
            f"({_per_second('pg_stat_database_xact_rollback')} + {_per_second('pg_stat_database_xact_commit')}) > 0.1 "
            f"and {_per_second('pg_stat_database_xact_rollback')} > 1"
        ),
        severity="warning",
        lasts="10m",
        summary=(
            "{{ $value | humanizePercentage }} of the transactions of {{ $labels.datname }} "
            "at {{ $labels.instance }} are rolled back"
        ),
        description="Programs fail in their transactions: errors in a release, conflicts, or time-outs of statements.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                _transactions("0+75x100", "0+225x100"),
                "20m",
                _FIRES_SHOP,
                "25% of the transactions of shop at db1:9187 are rolled back",
            ),
            Case(_transactions("0+60x100", "0+3000x100"), "20m"),
            # Most are rolled back, but there are few.
            Case(_transactions("0+3x100", "0+1x100"), "20m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresDeadlocks",
        expr="round(sum by (instance, datname) (increase(pg_stat_database_deadlocks[10m]))) > 0",
        severity="warning",
        lasts="0m",
        summary="{{ $value }} deadlocks in {{ $labels.datname }} at {{ $labels.instance }} in 10 min",
        description="Two transactions waited for each other and PostgreSQL ended one: its user got an error.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"pg_stat_database_deadlocks{{{_SHOP}}}": "5x20 8x20"},
                "10m",
                _FIRES_SHOP,
                "3 deadlocks in shop at db1:9187 in 10 min",
            ),
            Case({f"pg_stat_database_deadlocks{{{_SHOP}}}": "5x40"}, "10m"),
            # Statistics were reset, or the server crashed.
            Case({f"pg_stat_database_deadlocks{{{_SHOP}}}": "5x20 0x20"}, "10m"),
        ),
    ),
    Alert(
        name="TrunklinePostgresSlowStatements",
        expr=(
            "sum by (instance, datname, queryid) (rate(trunkline_pg_statement_seconds[5m])) "
            "/ (sum by (instance, datname, queryid) (rate(trunkline_pg_statement_calls[5m])) > 0.05) > 1"
        ),
        severity="warning",
        lasts="10m",
        summary=(
            "Statement {{ $labels.queryid }} in {{ $labels.datname }} at {{ $labels.instance }} "
            "takes {{ $value | humanizeDuration }} on average"
        ),
        description="Users of that statement wait. Its text is in pg_stat_statements, under this queryid.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {
                    f'trunkline_pg_statement_seconds{{{_SHOP},queryid="42"}}': "0+60x100",
                    f'trunkline_pg_statement_calls{{{_SHOP},queryid="42"}}': "0+30x100",
                },
                "20m",
                _FIRES_SHOP | {"queryid": "42"},
                "Statement 42 in shop at db1:9187 takes 2s on average",
            ),
            Case(
                {
                    f'trunkline_pg_statement_seconds{{{_SHOP},queryid="42"}}': "0+0.3x100",
                    f'trunkline_pg_statement_calls{{{_SHOP},queryid="42"}}': "0+30x100",
                },
                "20m",
            ),
            # A report that somebody runs now and then.
            Case(
                {
                    f'trunkline_pg_statement_seconds{{{_SHOP},queryid="42"}}': "0+20x100",
                    f'trunkline_pg_statement_calls{{{_SHOP},queryid="42"}}': "0+0.5x100",
                },
                "20m",
            ),
        ),
    ),
    Alert(
        name="TrunklinePostgresLongTransaction",
        expr=(
            "max by (instance, datname) (trunkline_pg_activity_longest_transaction_seconds) > 1800 "
            "or max by (instance, datname) (trunkline_pg_activity_longest_idle_in_transaction_seconds) > 300"
        ),
        severity="warning",
        lasts="1m",
        summary=(
            "A transaction in {{ $labels.datname }} at {{ $labels.instance }} is open, or idle, "
            "for {{ $value | humanizeDuration }}"
        ),
        description="It keeps locks, and vacuum from removing dead rows. Find its client in pg_stat_activity.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {f"trunkline_pg_activity_longest_transaction_seconds{{{_SHOP}}}": "1800+15x100"},
                "10m",
                _FIRES_SHOP,
                "A transaction in shop at db1:9187 is open, or idle, for 40m 0s",
            ),
            Case(
                {
                    f"trunkline_pg_activity_longest_transaction_seconds{{{_SHOP}}}": "360x100",
                    f"trunkline_pg_activity_longest_idle_in_transaction_seconds{{{_SHOP}}}": "330x100",
                },
                "10m",
                _FIRES_SHOP,
                "A transaction in shop at db1:9187 is open, or idle, for 5m 30s",
            ),
            Case(
                {
                    f"trunkline_pg_activity_longest_transaction_seconds{{{_SHOP}}}": "600x100",
                    f"trunkline_pg_activity_longest_idle_in_transaction_seconds{{{_SHOP}}}": "2x100",
                },
                "10m",
            ),
        ),
    ),
    Alert(
        name="TrunklinePostgresCacheMisses",
        expr=(
            f"{_per_second('pg_stat_database_blks_hit')} / "
            f"({_per_second('pg_stat_database_blks_hit')} + {_per_second('pg_stat_database_blks_read')}) < 0.9 "
            f"and {_per_second('pg_stat_database_blks_read')} > 100"
        ),
        severity="info",
        lasts="15m",
        summary=(
            "{{ $labels.datname }} at {{ $labels.instance }} finds {{ $value | humanizePercentage }} "
            "of its pages in PostgreSQL's cache"
        ),
        description="The rest comes from the system or the disk. Look for scans of large tables.",
        dashboard="trunkline-postgres",
        labels=_LABELS,
        cases=(
            Case(
                {
                    f"pg_stat_database_blks_hit{{{_SHOP}}}": "0+12000x200",
                    f"pg_stat_database_blks_read{{{_SHOP}}}": "0+8000x200",
                },
                "20m",
                _FIRES_SHOP,
                "shop at db1:9187 finds 60% of its pages in PostgreSQL's cache",
            ),
            Case(
                {
                    f"pg_stat_database_blks_hit{{{_SHOP}}}": "0+99000x200",
                    f"pg_stat_database_blks_read{{{_SHOP}}}": "0+2000x200",
                },
                "20m",
            ),
            # Hardly read at all.
            Case(
                {
                    f"pg_stat_database_blks_hit{{{_SHOP}}}": "0+10x200",
                    f"pg_stat_database_blks_read{{{_SHOP}}}": "0+10x200",
                },
                "20m",
            ),
            # Just started: the cache is cold, for minutes.
            Case(
                {
                    f"pg_stat_database_blks_hit{{{_SHOP}}}": "0+12000x200",
                    f"pg_stat_database_blks_read{{{_SHOP}}}": "0+8000x30 240000x140",
                },
                "20m",
            ),
        ),
    ),
)


def group(settings: MonitorSettings) -> Group:
    """The alerts on PostgreSQL.

    Args:
        settings: of [monitor]; none changes these limits.
    """
    return Group("trunkline-postgres", (*_SERVER, *_WORK, *alerts_vacuum.ALERTS))
