"""The fields of our log lines and their types, as the index templates declare them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def types_of(template: str) -> dict[str, str]:
    """Type by dotted name, from the JSON text of a template.

    Args:
        template: of Elasticsearch.
    """
    return dict(_leaves("", json.loads(template)["template"]["mappings"]["properties"]))


def _leaves(prefix: str, properties: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, mapping in properties.items():
        if "properties" in mapping:
            yield from _leaves(f"{prefix}{name}.", mapping["properties"])
        else:
            yield f"{prefix}{name}", mapping["type"]
