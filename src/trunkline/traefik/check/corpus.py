"""What the given files hold together: pieces of Traefik's configuration, Compose services, scrape configurations.

Rules:

- A mistake may show only between files (a label names an entry point of the static file), so rules see all at once.
- Options come under Traefik's own spelling, from wherever: files, labels, flags of a `command`, variables. What Traefik
  does not know is a finding here already and no part of the corpus.
- Files of other programs are no mistakes: what is not recognised is left alone.
"""

from __future__ import annotations

import difflib
import functools
import re
import shlex
from dataclasses import dataclass, field
from typing import Literal

from trunkline.traefik.check.documents import Assignments, Node, Snippet, pairs, trees
from trunkline.traefik.check.findings import Finding, Severity, finding
from trunkline.traefik.check.known_fields import Field, canonical, known
from trunkline.traefik.check.recognised import is_traefiks


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of configuration under Traefik's spelling.

    Attributes:
        file: where it stands.
        provider: `static`; `file` or `docker` for dynamic configuration.
        node: its options.
        fenced: whether it is a part of a longer text, so that what it names may stand elsewhere.
        group: number of the file or fence that holds it.
    """

    file: str
    provider: Literal["static", "file", "docker"]
    node: Node
    fenced: bool
    group: int

    @property
    def middlewares(self) -> dict[str, Node]:
        """Its HTTP middlewares by name."""
        return self.node.below("http", "middlewares")

    @property
    def services(self) -> dict[str, Node]:
        """Its HTTP services by name."""
        return self.node.below("http", "services")

    @property
    def routers(self) -> dict[str, Node]:
        """Its HTTP routers by name."""
        return self.node.below("http", "routers")

    def finding(self, rule: str, at: Node, severity: Severity | None = None, **values: object) -> Finding:
        """A mistake at one of its nodes; see `findings.finding`."""
        return finding(rule, self.file, at.line, severity, **values)


@dataclass(frozen=True, slots=True)
class ComposeService:
    """A service of a Compose file."""

    file: str
    name: str
    node: Node

    @property
    def is_traefik(self) -> bool:
        """Whether it is a Traefik."""
        image = self.node.word("image").rpartition("/")[2].partition(":")[0]
        return image == "traefik" or (not image and self.name == "traefik")


@dataclass(slots=True)
class Corpus:
    """Everything that was given.

    Attributes:
        scrapes: scrape configurations of Prometheus, by file.
        texts: every snippet, by file.
        documents: the sections of Traefik's as written, of whole files and of the flags of a Traefik.
        findings: what showed while sorting.
    """

    pieces: list[Piece] = field(default_factory=list)
    services: list[ComposeService] = field(default_factory=list)
    scrapes: list[tuple[str, Node]] = field(default_factory=list)
    texts: list[tuple[str, Snippet]] = field(default_factory=list)
    documents: list[tuple[str, Literal["static", "file"], Node]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, file: str, snippet: Snippet) -> None:
        """Sort a snippet in; raises UnreadableError."""
        self.texts.append((file, snippet))
        for tree in trees(snippet):
            if "apiVersion" not in tree.parts:
                self._sort(file, tree, snippet.fenced)

    def of(self, *providers: str) -> list[Piece]:
        """The pieces of these providers."""
        return [piece for piece in self.pieces if piece.provider in providers]

    def _sort(self, file: str, tree: Node, fenced: bool) -> None:
        static: dict[str, Node] = {}
        dynamic: dict[str, Node] = {}
        unknown: dict[str, Node] = {}
        if "scrape_configs" in tree.parts:
            self.scrapes.append((file, tree))
            return
        compose = "services" in tree.parts and "http" not in tree.parts
        for name, child in tree.parts.items():
            if compose and name == "services":
                for service, node in child.parts.items():
                    self._compose_service(ComposeService(file, service, node), fenced)
            elif compose and (name in _COMPOSE or name.startswith("x-")):
                continue
            elif name == "labels":
                self._labels(file, child, fenced)
            elif known()["static"].find(name, "file"):
                static[name] = child
            elif known()["dynamic"].find(name, "file"):
                dynamic[name] = child
            elif child.parts.keys() & {"image", "labels", "build"}:
                self._compose_service(ComposeService(file, name, child), fenced)
            else:
                unknown[name] = child
        if not is_traefiks(static, dynamic, unknown if not compose else {}):
            return
        self._sorted(file, tree.line, static, dynamic, fenced)
        if not compose:
            self._unknown_sections(file, unknown, bool(static or dynamic))

    def _sorted(self, file: str, line: int, static: dict[str, Node], dynamic: dict[str, Node], fenced: bool) -> None:
        if static:
            self._piece(file, "static", known()["static"], Node(line, static), fenced)
        if dynamic:
            self._piece(file, "file", known()["dynamic"], Node(line, dynamic), fenced)
        if static and dynamic and not fenced:
            section, first = next(iter(dynamic.items()))
            self.findings.append(finding("mixed-file", file, first.line, section=section))

    def _unknown_sections(self, file: str, unknown: dict[str, Node], ours: bool) -> None:
        tops = {part.name for kind in known().values() for part in (kind.parts or {}).values()}
        for name, child in unknown.items():
            if name.lower() in _REMOVED and ours and child.value is not None:
                self.findings.append(finding("removed-section", file, child.line, name=name))
                continue
            near = difflib.get_close_matches(name, sorted(tops), n=1, cutoff=0.6 if ours else 0.85)
            if ours or near:
                what = f"Traefik 3.7 has no section {name} and ignores it silently"
                instead = f"write {near[0]}" if near else f"there are: {', '.join(sorted(tops, key=str.lower))}"
                self.findings.append(finding("unknown-field", file, child.line, what=what, instead=instead))

    def _refused(self, file: str, effect: str, rule: str, line: int, what: str, instead: str) -> None:
        self.findings.append(finding(rule, file, line, what=f"{what}; {effect}", instead=instead))

    def _piece(
        self, file: str, provider: Literal["static", "file", "docker"], kind: Field, tree: Node, fenced: bool
    ) -> None:
        complain = functools.partial(self._refused, file, _EFFECTS[provider])
        node = canonical(tree, kind, "label" if provider == "docker" else "file", complain)
        if provider != "docker" and not fenced:
            self.documents.append((file, provider, tree))
        self.pieces.append(Piece(file, provider, node, fenced, len(self.texts)))

    def _compose_service(self, service: ComposeService, fenced: bool) -> None:
        self.services.append(service)
        labels = service.node.at("labels") or service.node.at("deploy", "labels")
        if labels is not None:
            self._labels(service.file, labels, fenced)
        if not service.is_traefik:
            return
        given = Assignments()
        for line, name, value in _flags(service.node.at("command")):
            if name.lower() != "configfile":
                given.set(name.split("."), value, line)
        for line, name, value in pairs(service.node.at("environment") or Node(0, None)):
            path = _variable(name.upper().split("_")[1:], known()["static"]) if name.startswith("TRAEFIK_") else None
            if path is not None:
                given.set(path, value, line)
            elif name.startswith("TRAEFIK_"):
                what = f"no option of Traefik 3.7 has the variable {name}"
                self.findings.append(finding("unknown-field", service.file, line, what=what, instead="see its flags"))
        tree = given.tree()
        if tree.parts:
            self._piece(service.file, "static", known()["static"], tree, fenced)

    def _labels(self, file: str, labels: Node, fenced: bool) -> None:
        given = Assignments()
        for line, name, value in pairs(labels):
            first, *path = name.split(".")
            if first.lower() == "traefik" and path and path[0].lower() not in _LABEL_ROOTS:
                given.set(path, value, line)
        tree = given.tree()
        if tree.parts:
            self._piece(file, "docker", known()["dynamic"], tree, fenced)


_COMPOSE = {"version", "name", "networks", "volumes", "configs", "secrets", "include"}
_LABEL_ROOTS = {"enable", "docker", "swarm", "tags"}
_REMOVED = {"pilot"}
_EFFECTS: dict[str, str] = {
    "static": "Traefik does not start",
    "file": "Traefik then drops the whole file",
    "docker": "Traefik then drops all labels of the container",
}


def _flags(command: Node | None) -> list[tuple[int, str, str]]:
    """Line, name and value of the flags of a command, in the list and in the text form."""
    if command is None:
        return []
    words: list[tuple[int, str]] = [(item.line, item.text or "") for item in command.items]
    if command.text is not None:
        try:
            words = [(command.line, word) for word in shlex.split(command.text)]
        except ValueError:
            return []
    found = []
    for line, word in words:
        if flag := re.fullmatch(r"--([^=]+)(?:=(.*))?", word, re.DOTALL):
            value = flag.group(2)
            found.append((line, flag.group(1), "true" if value is None else value))
    return found


def _variable(words: list[str], part: Field) -> list[str] | None:
    """The option that the words of a variable's name mean; names of one's own may hold further underscores."""
    if not words:
        return [] if part.parts is None or part.alone else None
    for child in (part.parts or {}).values():
        if child.name.upper() != words[0]:
            continue
        if child.free or not child.wrappers:
            rest: list[str] | None = words[1:] if child.free else _variable(words[1:], child)
            return None if rest is None else [child.name, *rest]
        if child.wrappers[0] == "[]":
            return [child.name] if len(words) == 1 else [child.name, f"[{words[1]}]", *words[2:]]
        for taken in range(1, len(words)):
            rest = _variable(words[1 + taken :], child)
            if rest is not None:
                return [child.name, "_".join(words[1 : 1 + taken]).lower(), *rest]
    return None
