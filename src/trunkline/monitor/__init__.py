"""Monitoring from one declaration: Prometheus, Alertmanager and Grafana files, and a local stack to try them.

Where things are: `data/` holds alerts, recording rules, their test cases, queries and log shipping in the formats of
the programs that read them; `rules/` loads the rules, `files/` makes every file that `trunkline monitor render` writes,
and `local/` runs Prometheus and its neighbours on this machine.

Rule: our series are declared in `trunkline.metrics`, those of others in `data/foreign_series.yml`; an expression that
names any other does not load.
"""
