"""Who ordered what on an admin port: a line in the log that names the holder of the token, never the token.

Rules: what changes a node or a balancer is always written down, and so is a token that tries more than its scopes; a
publication at the level debug, for there may be thousands; who only reads, not at all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from trunkline.net.admin.holders import Holder
from trunkline.net.admin.routes import Route

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

FORBIDDEN: Final = 403


def record(log: FilteringBoundLogger, holder: Holder, route: Route, path: str, address: str, status: int) -> None:
    """Write it down.

    Args:
        log: of the port.
        holder: whose token the request carried.
        route: what was wanted.
        path: as it was asked for, without the query.
        address: where the request came from.
        status: of the answer.
    """
    if status == FORBIDDEN:
        level = logging.WARNING
    elif route.scope == "operate":
        level = logging.INFO
    elif route.scope == "publish":
        level = logging.DEBUG
    else:
        return
    log.log(
        level, "admin_order", by=holder.name, scope=route.scope, method=route.method, path=path, address=address,
        status=status,
    )  # fmt: skip
