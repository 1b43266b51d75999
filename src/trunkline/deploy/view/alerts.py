"""The alerts that fire while a deploy is watched, asked of Alertmanager.

Rules: what does not answer has no alerts, and nobody is told of it: a deploy goes by its own measurements. The
watchdog, which always fires, is none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import aiohttp
import msgspec

from trunkline.deploy.world.balancers import read_body

EVERY_S: Final = 5.0
ASK_S: Final = 2.0
LONGEST: Final = 4 << 20
WATCHDOG: Final = "Watchdog"
ACTIVE: Final = {"active": "true", "silenced": "false", "inhibited": "false"}

_ORDER: Final = {"critical": 0, "warning": 1}


class Alert(NamedTuple):
    """Alerts of one name that fire now, `times` of them."""

    name: str
    severity: str
    times: int

    def __str__(self) -> str:
        times = f" x{self.times}" if self.times > 1 else ""
        return f"{self.name}{times}" + (f" ({self.severity})" if self.severity else "")


class _Fired(msgspec.Struct, frozen=True):
    labels: dict[str, str]


def read_alerts(*bodies: bytes) -> tuple[Alert, ...]:
    """What fires, the worst first, from answers of Alertmanagers, which may be of one cluster; raises MsgspecError."""
    fired = {
        tuple(sorted(each.labels.items())): each.labels
        for body in bodies
        for each in msgspec.json.decode(body, type=list[_Fired])
    }
    found = Counter(
        (name, labels.get("severity", ""))
        for labels in fired.values()
        if not (name := labels.get("alertname", "")).endswith(WATCHDOG)
    )
    alerts = [Alert(name, severity, times) for (name, severity), times in found.items()]
    return tuple(sorted(alerts, key=lambda alert: (_ORDER.get(alert.severity, len(_ORDER)), alert.name)))


async def follow_alerts(
    addresses: Sequence[str], on_alerts: Callable[[tuple[Alert, ...]], None], *, every_s: float = EVERY_S
) -> None:
    """Ask each Alertmanager, by host and port, every few seconds, and hand over what fires; without any it ends."""
    if not addresses:
        return
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        while True:
            answers = await asyncio.gather(*(_ask(session, address) for address in addresses))
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                on_alerts(read_alerts(*(answer for answer in answers if answer is not None)))
            await asyncio.sleep(every_s)


async def _ask(session: aiohttp.ClientSession, address: str) -> bytes | None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
        async with session.get(f"http://{address}/api/v2/alerts", params=ACTIVE) as answer:
            if answer.status == 200:
                return await read_body(answer, LONGEST)
    return None
