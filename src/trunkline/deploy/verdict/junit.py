"""A verdict as JUnit XML: how the deploy ended and each threshold are tests; what was not measured is skipped. Pure."""

from __future__ import annotations

from trunkline.deploy.verdict.text import text
from trunkline.deploy.verdict.verdict import DeployVerdict
from trunkline.load.output.junit_suite import Suite, because


def junit(verdict: DeployVerdict) -> bytes:
    """The verdict as XML in UTF-8."""
    facts = verdict.facts
    properties = {
        "id": facts.id, "from": facts.from_colour, "to": facts.to_colour, "version": facts.version,
        "result": verdict.result, "ended": facts.ended, "tool": verdict.tool, "words": verdict.words,
        "moving_s": f"{facts.moving_s:.3f}", "waited_s": f"{facts.waited_s:.3f}",
    }  # fmt: skip
    suite = Suite(f"trunkline deploy {facts.to_colour}", properties.items())
    case = suite.case("trunkline.deploy", "the deploy is done")
    if facts.ended != "done":
        because(case, "failure", f"{facts.ended}: {facts.why}" if facts.why else facts.ended, "\n".join(facts.notes))
    for judged in verdict.thresholds:
        case = suite.case("trunkline.deploy.thresholds", judged.threshold)
        if not judged.passed:
            because(case, "failure", f"{judged.threshold}: {judged.shown}")
        elif judged.value is None:
            because(case, "skipped", judged.shown)
    return suite.written(text(verdict), facts.started_at, facts.lasted_s)
