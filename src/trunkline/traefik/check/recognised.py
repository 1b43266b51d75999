"""Whether a document that has some section of a Traefik's name is Traefik's. Pure.

Many programs have a section `log`, `http`, `metrics` or `providers`. So:

- A section that no other program has in this form (`entryPoints`, `http` with `routers`) makes a document Traefik's,
  unless most of its sections are unknown to Traefik.
- Without one every section must be known, and of what stands in them more must be known than not. A name that is nearly
  an option of Traefik's counts as known: it is the mistake that is looked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.known_fields import Field, known

_OWN: Final = {
    "entrypoints",
    "certificatesresolvers",
    "serverstransport",
    "tcpserverstransport",
    "hostresolver",
    "pilot",
}
_ROUTING: Final = {"routers", "services", "middlewares", "serverstransports"}
_TLS: Final = {"certificates", "options", "stores"}
# The values of Traefik's Helm chart have sections of the same names with other parts.
_CHART: Final = {"additionalarguments", "ingressroute", "deployment", "podsecuritycontext", "rbac"}


def is_traefiks(static: Mapping[str, Node], dynamic: Mapping[str, Node], unknown: Mapping[str, Node]) -> bool:
    """Whether sections of one document, sorted by what Traefik knows them as, are Traefik's."""
    if _CHART & {name.lower() for name in unknown}:
        return False
    if any(_is_own(name, node) for name, node in (*static.items(), *dynamic.items())):
        return len(unknown) <= 2 * (len(static) + len(dynamic))
    if unknown:
        return False
    right = wrong = 0
    for kind, sections in (("static", static), ("dynamic", dynamic)):
        for name, node in sections.items():
            field = known()[kind].find(name, "file")
            if field is None or field.wrappers or field.parts is None:
                continue
            if not isinstance(node.value, dict):
                wrong += node.value is not None and not (field.alone and (node.text or "").lower() in ("true", "false"))
                continue
            for part in node.parts:
                if _is_nearly_known(part, field):
                    right += 1
                else:
                    wrong += 1
    return right > wrong or wrong == 0


def _is_own(name: str, node: Node) -> bool:
    lower = name.lower()
    # Of Traefik's, these have parts or entries below them.
    parts = {part.lower() for part, child in node.parts.items() if child.text is None}
    if lower in _OWN:
        return isinstance(node.value, dict)
    if lower in ("http", "tcp", "udp"):
        return bool(parts & _ROUTING) and not any(child.items for child in node.parts.values())
    if lower == "providers":
        field = known()["static"].find("providers", "file")
        return field is not None and any(field.find(part, "file") for part in parts)
    return lower == "tls" and bool(parts & _TLS)


def _is_nearly_known(name: str, field: Field) -> bool:
    if field.find(name, "file") is not None:
        return True
    names = [part.lower() for part in field.names("file")]
    return bool(difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.75))
