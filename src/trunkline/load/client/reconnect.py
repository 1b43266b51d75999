"""When a client reconnects after its connection ended: by close code, goodbye and how often it failed. Pure.

Rules, as in trunkline.js: a `goodbye` is the server's plan and replaces the back-off after a connection that stayed;
else the larger of both counts, for a hint that does not help would be obeyed for ever. A hint has a longest value.
Codes of the table in `protocol/close_codes.py` decide by their row; of others those of applications (3000 and above)
are final, the rest not.
"""

from __future__ import annotations

import random
from typing import Final

from trunkline.protocol import close_codes, wire

FIRST_S: Final = 1.0
LONGEST_S: Final = 10.0

STABLE_S: Final = 5.0
"""How long a connection is open until the back-off starts from its minimum again."""

LONGEST_HINT_S: Final = 3600.0
"""What a server may ask a client to wait; more is taken for this."""

_PAUSED: Final = 2  # codes that ask for a pause begin where the back-off would be after so many failures
_ROWS: Final = {row.code: row.reconnect for row in close_codes.TABLE}


def seconds_away(code: int, goodbye: wire.Goodbye | None, attempt: int, rng: random.Random) -> float | None:
    """How many seconds a client stays away; None: it must not reconnect.

    The code is 1006 where there was no close frame or the connection could not be opened; `attempt` counts the failures
    in a row, and connections that did not stay for `STABLE_S`, from 0. The back-off is from half to the whole of 1 s,
    doubled with each attempt up to 10 s.
    """
    row = _ROWS.get(code)
    if row == "no" or (goodbye is not None and not goodbye.reconnect):
        return None
    if row is None and code >= 3000 and goodbye is None:
        return None
    hint_s = None
    if goodbye is not None and goodbye.reconnect_after_ms is not None:
        hint_s = min(max(0, goodbye.reconnect_after_ms) / 1000, LONGEST_HINT_S)
        if not attempt:
            return hint_s
    asks_pause = row == "after_pause" or code == close_codes.OVERLOADED.code
    paused = _PAUSED if asks_pause and hint_s is None else 0
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(attempt + paused, 10))
    return max(hint_s or 0.0, longest * (0.5 + 0.5 * rng.random()))
