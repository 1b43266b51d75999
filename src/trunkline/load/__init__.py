"""The load tester: an open-model generator that counts what it should have received against what it did.

Start with `run.py`, which composes a run, and follow it through the rooms:

- `model/` what a run is and what it counts: the scenario, the workers' messages, tallies, histograms, the report.
- `scenario/` what the user writes: built-in scenarios, files, thresholds, and the plan of moments made from them.
- `client/` the sessions of one process: `generator.py` drives them, `protocols/` is how they talk.
- `workers/` processes and agents: `coordinator.py` leads them, `process.py` is one of them.
- `judge/` what was lost, what the servers counted, whether the run passed.
- `output/` the report for people and programs: live view, summary, page, JUnit, comparison.

With the server it shares the messages of `protocol` alone: an implementation that both had in common would hide its
own faults. Its WebSocket client is picows.
"""
