"""Traefik's options as a tree, and the walk that finds what is not in it.

Rule: the walk gives back the same tree with every name as Traefik spells it, so that rules see one spelling, and a list
where Traefik has one, whether it came from a file, a flag, an environment variable or a label.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Literal

import msgspec

from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.values import KINDS, Kind, why_no

Via = Literal["file", "label"]
Complain = Callable[[str, int, str, str], None]
"""Gets the rule, the line, what is wrong, and what to write instead."""


class Field(msgspec.Struct, frozen=True):
    """One option.

    Attributes:
        wrappers: `[]` and `<>` around its parts or value, from outside in.
        parts: the options below it by lower-case name; None for a value.
        free: whatever stands below it is right.
        alone: it may stand without its parts.
        only: the one way by which it can be set, None for all.
        label: what labels call it.
        kind: what a value must be, None for any text.
    """

    name: str
    wrappers: tuple[str, ...]
    parts: dict[str, Field] | None
    free: bool = False
    alone: bool = False
    only: Via | None = None
    label: str = ""
    kind: Kind | None = None

    def find(self, name: str, via: Via) -> Field | None:
        """The option below this one that `name` means."""
        lower = name.lower()
        found = (self.parts or {}).get(lower)
        if via == "label":
            # `server` stands for the only entry of `servers`, which labels cannot write as a list.
            for part in (self.parts or {}).values():
                if part.label == lower:
                    return part
        return (
            found if found is not None and found.only in (None, via) and not (via == "label" and found.label) else None
        )

    def names(self, via: Via) -> list[str]:
        """What may stand below this one."""
        return [
            part.label or part.name if via == "label" else part.name
            for part in (self.parts or {}).values()
            if part.only in (None, via)
        ]


@functools.cache
def known() -> Mapping[str, Field]:
    """The trees `static` and `dynamic`."""
    root: dict[str, Field] = {}
    open_parts: list[dict[str, Field]] = [root]
    text = resources.files("trunkline.traefik.check").joinpath("known_fields.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        level = (len(line) - len(line.lstrip())) // 2
        word, *flags = line.split()
        field = _field(word, flags)
        del open_parts[level + 1 :]
        open_parts[level][field.name.lower()] = field
        if field.parts is not None:
            open_parts.append(field.parts)
    return root


def _field(word: str, flags: list[str]) -> Field:
    has_parts = word.endswith("/")
    name = word.rstrip("/")
    free = name.endswith("<any>")
    name = name.removesuffix("<any>")
    wrappers: list[str] = []
    while name.endswith(("[]", "<>")):
        wrappers.insert(0, name[-2:])
        name = name[:-2]
    only: Via | None = "file" if "file-only" in flags else "label" if "label-only" in flags else None
    label = next((flag.partition("=")[2] for flag in flags if flag.startswith("label=")), "")
    kind = next((kind for kind in KINDS if kind in flags), None)
    return Field(name, tuple(wrappers), {} if has_parts else None, free, "?" in flags, only, label, kind)


def canonical(node: Node, field: Field, via: Via, complain: Complain, path: str = "") -> Node:
    """`node` with Traefik's spelling and lists; what Traefik does not know is complained of and left out."""
    return _wrapped(node, field, field.wrappers, via, complain, path)


def _wrapped(node: Node, field: Field, wrappers: tuple[str, ...], via: Via, complain: Complain, path: str) -> Node:
    if field.free or node.value is None:
        return node
    if path and wrappers == field.wrappers and _is_empty(node, field):
        complain("empty-section", node.line, f"{path} is empty", "delete the line, or write what belongs below it")
    if not wrappers:
        return _value(node, field, via, complain, path)
    inner = wrappers[1:]
    if wrappers[0] == "<>":
        if not isinstance(node.value, dict):
            complain("unknown-field", node.line, f"{path} holds names of one's own, not a value", f"write {path}.NAME")
            return Node(node.line, {})
        return Node(
            node.line,
            {
                name: _wrapped(child, field, inner, via, complain, f"{path}.{name}")
                for name, child in node.value.items()
            },
        )
    return Node(node.line, [_wrapped(item, field, inner, via, complain, path) for item in _items(node, field)])


def _is_empty(node: Node, field: Field) -> bool:
    """Whether it needs parts and has none; parts without a value do not count for Traefik."""
    if field.alone or field.wrappers[:1] == ("[]",) or not isinstance(node.value, dict):
        return False
    return all(child.value is None for child in node.value.values())


def _items(node: Node, field: Field) -> list[Node]:
    """The entries of a list, however it is written."""
    if isinstance(node.value, list):
        return node.value
    if isinstance(node.value, dict):
        if all(name.startswith("[") for name in node.value):
            return list(node.value.values())
        return [node]
    if field.parts is not None:
        return [node]
    return [Node(node.line, text.strip()) for text in (node.text or "").split(",") if text.strip()]


def _value(node: Node, field: Field, via: Via, complain: Complain, path: str) -> Node:
    if field.parts is None:
        if isinstance(node.value, dict):
            for name, child in node.value.items():
                what = f"{path} takes a value and has no part {name!r}"
                complain("unknown-field", child.line, what, f"write {path}: VALUE")
            return Node(node.line, None)
        if field.kind is not None:
            why = why_no(field.kind, node)
            if why:
                complain("bad-value", node.line, f"{path}: {why[0]}", why[1])
        return node
    if isinstance(node.value, dict):
        found: dict[str, Node] = {}
        for name, child in node.value.items():
            part = field.find(name, via)
            if part is None:
                _complain_of(name, child.line, field, via, complain, path)
                continue
            found[part.name] = canonical(child, part, via, complain, f"{path}.{part.name}" if path else part.name)
        return Node(node.line, found)
    if isinstance(node.value, str) and not (field.alone and node.value.lower() in ("true", "false", "")):
        what = f"{path} cannot stand alone with the value {node.text!r}"
        complain("unknown-field", node.line, what, _choices(field, via))
        return Node(node.line, {})
    return node


def _complain_of(name: str, line: int, field: Field, via: Via, complain: Complain, path: str) -> None:
    full = f"{path}.{name}" if path else name
    special = INSTEAD.get(tuple(full.lower().split(".")[-2:]))
    hidden = (field.parts or {}).get(name.lower())
    if special is not None:
        instead = special
    elif hidden is not None and hidden.label:
        instead = f"labels call it {hidden.label}"
    elif hidden is not None:
        instead = "set it in a file of the file provider" if via == "label" else "it can be set by labels alone"
    else:
        near = difflib.get_close_matches(name.lower(), [known.lower() for known in field.names(via)], n=1, cutoff=0.7)
        spelled = {known.lower(): known for known in field.names(via)}
        instead = f"write {spelled[near[0]]}" if near else _choices(field, via)
    complain("unknown-field", line, f"Traefik 3.7 has no option {full}", instead)


def _choices(field: Field, via: Via) -> str:
    names = sorted(field.names(via), key=str.lower)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"there are: {shown}" if shown else "leave it out"


INSTEAD: Mapping[tuple[str, ...], str] = {
    ("retry", "maxinterval"): "leave it out: attempts and initialInterval bound the pauses, timeout bounds them all",
    ("retry", "multiplier"): "leave it out: the pauses grow by themselves; set attempts and initialInterval",
    ("loadbalancer", "timeout"): "set forwardingTimeouts in a serversTransport",
    ("docker", "swarmmode"): "use the provider swarm",
    ("providers", "marathon"): "delete it; Traefik 3 has no such provider",
    ("providers", "rancher"): "delete it; Traefik 3 has no such provider",
    ("consul", "namespace"): "write namespaces",
    ("consulcatalog", "namespace"): "write namespaces",
    ("nomad", "namespace"): "write namespaces",
    ("tls", "caoptional"): "delete it; whether a client needs a certificate is the server's choice",
    ("experimental", "http3"): "delete it; http3 is an option of each entry point",
    ("tracing", "spannamelimit"): "delete it; names of spans have a fixed length",
    ("metrics", "influxdb"): "write influxDB2, or otlp",
    **{
        ("tracing", backend): "write otlp; collectors of OpenTelemetry pass it on"
        for backend in ("jaeger", "zipkin", "datadog", "instana", "haystack", "elastic")
    },
}
"""What to write in place of names that guides spread, by the last two parts of the full name."""
