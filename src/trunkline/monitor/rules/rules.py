"""All groups of rules, in the order in which they are rendered: recordings first, for the alerts read them.

Rules:

- A module `alerts_*` with a function `group` is found by its name, so that no group is written and never rendered.
- They are imported when they are asked for. Each checks its expressions as it loads, and the commands that render
  nothing shall not wait for that.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from trunkline.monitor import rules
from trunkline.monitor.rules.rule import Alert, Group
from trunkline.settings.monitor import MonitorSettings


def groups(settings: MonitorSettings) -> tuple[Group, ...]:
    """Every group.

    Args:
        settings: limits and objectives that stand in expressions.
    """
    alerts = sorted(found.name for found in pkgutil.iter_modules(rules.__path__) if found.name.startswith("alerts_"))
    modules = (import_module(f"{rules.__name__}.{name}") for name in ("recording", *alerts))
    return tuple(module.group(settings) for module in modules if hasattr(module, "group"))


def alerts(settings: MonitorSettings) -> tuple[Alert, ...]:
    """Every alert, in that order.

    Args:
        settings: as for `groups`.
    """
    return tuple(each for group in groups(settings) for each in group.rules if isinstance(each, Alert))
