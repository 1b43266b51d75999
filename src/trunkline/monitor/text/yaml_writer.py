"""YAML that people read: keys in the order given, long texts as blocks, a first line that names its command.

Rule: the same document is the same text, always; `trunkline monitor check` compares texts.
"""

from __future__ import annotations

from typing import Any

import yaml

MADE_BY = "Made by `trunkline monitor render`. Change the settings, not this file: the next rendering replaces it."

Document = dict[str, Any]
"""What YAML and JSON hold: the one place where a dict of anything is right."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """No anchors: equal lists are written out, so that a reader sees each where it counts."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists stand in from their key."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump(document: Document, *comments: str) -> str:
    """A document as YAML.

    Args:
        document: mappings, lists, texts, numbers.
        comments: further lines of the head, without `#`.
    """
    head = "".join(f"# {line}\n" for line in (MADE_BY, *comments))
    return head + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
