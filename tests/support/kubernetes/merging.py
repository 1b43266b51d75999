"""Strategic merge patches as far as Deployments need them: lists of containers and variables merge by name."""

from __future__ import annotations

import copy
from typing import Any

_BY_NAME = frozenset({"containers", "initContainers", "env", "volumes"})


def merged(found: Any, change: Any, key: str = "") -> Any:
    """`found` with `change` laid over it; null removes."""
    if isinstance(found, dict) and isinstance(change, dict):
        result = copy.deepcopy(found)
        for name, value in change.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(result.get(name), value, name)
        return result
    if isinstance(change, list) and key in _BY_NAME:
        rows: dict[str, Any] = {row["name"]: row for row in found or ()}
        for row in change:
            if row.get("$patch") == "delete":
                rows.pop(row["name"], None)
            else:
                rows[row["name"]] = merged(rows.get(row["name"], {}), row)
        return list(rows.values())
    return copy.deepcopy(change)
