"""The load tester: an open-model generator that counts what it should have received against what it did.

Where things are: `plan.py` says what a run is, `shapes.py` and `scenarios.py` when connections come and go, `tally.py`
what is counted, `order.py` whether a publication is missing, double or late, `generator.py` drives the connections of
one process, `coordinator.py` several processes and machines, `report.py` is what comes out.

The room shares `wire.py` with the server and nothing else: an implementation that both had in common would hide its
own faults. Its WebSocket client is picows.
"""
