"""When a client reconnects after its connection ended: by close code, goodbye and how often it failed. Pure.

Rules, as in trunkline.js: a `goodbye` is the server's plan and precedes the back-off. Codes of the table in
`protocol/close_codes.py` decide by their row; of others those of applications (3000 and above) are final, the rest not.
"""

from __future__ import annotations

import random
from typing import Final

from trunkline.protocol import close_codes, wire

FIRST_S: Final = 1.0
LONGEST_S: Final = 10.0
_PAUSED: Final = 2  # codes that ask for a pause begin where the back-off would be after so many failures
_ROWS: Final = {row.code: row.reconnect for row in close_codes.TABLE}


def seconds_away(code: int, goodbye: wire.Goodbye | None, attempt: int, rng: random.Random) -> float | None:
    """How many seconds a client stays away; None: it must not reconnect.

    The code is 1006 where there was no close frame or the connection could not be opened; `attempt` counts the failures
    in a row, from 0. The back-off is from half to the whole of 1 s, doubled with each attempt up to 10 s.
    """
    row = _ROWS.get(code)
    if row == "no" or (goodbye is not None and not goodbye.reconnect):
        return None
    if row is None and code >= 3000 and goodbye is None:
        return None
    if goodbye is not None and goodbye.reconnect_after_ms is not None:
        return max(0, goodbye.reconnect_after_ms) / 1000
    asks_pause = row == "after_pause" or code == close_codes.OVERLOADED.code
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(attempt + (_PAUSED if asks_pause else 0), 10))
    return longest * (0.5 + 0.5 * rng.random())
