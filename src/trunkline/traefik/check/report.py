"""`trunkline traefik check`: mistakes in configurations of Traefik and what goes with them, with file and line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trunkline.traefik.check.corpus import Corpus
from trunkline.traefik.check.documents import UnreadableError, read, snippets
from trunkline.traefik.check.findings import Finding, Severity, finding
from trunkline.traefik.check.rules import neighbours, pieces, refusals, sets

_RULES = (*pieces.RULES, *refusals.RULES, *sets.RULES, *neighbours.RULES)


class Report(NamedTuple):
    """What was found, and whether something could not be read and so was not checked."""

    findings: tuple[Finding, ...]
    unreadable: bool

    @property
    def exit_code(self) -> int:
        """0 without errors, 1 with, 2 when something could not be read."""
        if self.unreadable:
            return 2
        return 1 if any(finding.severity == "error" for finding in self.findings) else 0


def check_files(paths: Sequence[Path], with_traefik: bool = False) -> Report:
    """Check files of any kind together, since one may name what another defines; see `check_texts`."""
    return check_texts([(str(path), path) for path in paths], with_traefik)


def check_texts(named: Sequence[tuple[str, Path | str]], with_traefik: bool = False) -> Report:
    """Check files or texts together, each with a name whose suffix gives the language.

    `with_traefik` asks the installed Traefik too; raises StartError when there is none.
    """
    corpus = Corpus()
    found: list[Finding] = []
    unreadable = False
    for name, source in named:
        try:
            text = read(source) if isinstance(source, Path) else source
        except UnreadableError as error:
            unreadable = True
            found.append(
                finding("unreadable", name, error.line, what="file", why=error.why, instead="give a text file")
            )
            continue
        for snippet in snippets(Path(name), text):
            try:
                corpus.add(name, snippet)
            except UnreadableError as error:
                if snippet.fenced and snippet.language == "json":
                    continue  # an answer with comments or left-out parts; Traefik is not configured in JSON
                # A fence may be a sketch; a file that cannot be parsed is refused by Traefik too.
                unreadable = unreadable or not snippet.fenced
                severity: Severity = "warning" if snippet.fenced else "error"
                instead = "correct it; nothing of it was checked"
                found.append(
                    finding("unreadable", name, error.line, severity, what="text", why=error.why, instead=instead)
                )
    for rule in _RULES:
        found += rule(corpus)
    if with_traefik and corpus.documents:
        wrong = {(one.file, one.line) for one in (*corpus.findings, *found) if one.severity == "error"}
        # Where a rule has found something already it says what to write, too.
        found += [one for one in _asked(corpus) if one.line == 0 or (one.file, one.line) not in wrong]
    # Labels repeated over replicas have the same mistake each; each line is still named once.
    unique = dict.fromkeys([*corpus.findings, *found])
    return Report(tuple(sorted(unique, key=lambda finding: (finding.file, finding.line, finding.rule))), unreadable)


def _asked(corpus: Corpus) -> list[Finding]:
    # Only who asks needs what runs programs.
    from trunkline.traefik.check.ask.ask import ask
    from trunkline.traefik.check.ask.stand_in import Document

    static = [Document(file, node) for file, provider, node in corpus.documents if provider == "static"]
    dynamic = [Document(file, node) for file, provider, node in corpus.documents if provider == "file"]
    return ask(static, dynamic)
