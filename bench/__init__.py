"""Side-by-side benchmarks: our node and its peers, measured in the same run on the same machine.

Rules:

- Absolute times are noise, ratios and counts are results. Each figure is the CPU time (user and system) that a server
  process used, divided by what it did, and each benchmark runs ours and the peers in turn (A B A B ...) and compares
  medians.
- Servers under test are child processes; this process is the load generator and nothing else.
- A peer that is not installed is named and left out. Nothing is measured that was not also counted: a message that
  does not come back ends the benchmark with an error.
"""
