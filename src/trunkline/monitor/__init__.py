"""Monitoring from one declaration: Prometheus, Alertmanager and Grafana files, and a local stack to try them.

Where things are: `rule.py` says what an alert is, `alerts_*.py` are the alerts by subject, `bundle.py` is every file
that `trunkline monitor render` writes, `local_stack.py` runs Prometheus and its neighbours on this machine.

Rule: series of ours are declared in `trunkline.metrics`, those of others in `foreign_series.py`; an expression that
names any other does not load.
"""
