"""The logger of modules that `import trunkline` loads: structlog itself is loaded with the first event.

structlog imports rich wherever that is installed, which an application's own tests and tools should not pay for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class _Logger:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        return getattr(structlog.get_logger(self._name), method)


def get_logger(name: str) -> FilteringBoundLogger:
    """A structlog logger; what `structlog.get_logger` returns, without loading structlog yet."""
    return cast("FilteringBoundLogger", _Logger(name))
