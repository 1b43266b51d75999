"""A page of history out of what was read of a channel. Pure."""

from __future__ import annotations

import msgspec

from trunkline.bus.base import Publication
from trunkline.bus.nats.jetstream import Seen, Stored


class Wanted(msgspec.Struct, frozen=True):
    """What a page is to hold: at most `limit` publications with offset > `after`, as old as `oldest_ts` at most.

    Attributes:
        oldest_ts: ms since 1970.
        delivered: the newest offset known to exist.
    """

    channel: str
    after: int
    limit: int
    oldest_ts: int
    delivered: int


class Reading(msgspec.Struct, frozen=True):
    """Messages of a channel from a position on, in order.

    Attributes:
        pending: how many more there are than came.
        first: the first sequence at or after the position, None for none.
        held: how many messages there were from the position on.
        newest: the newest sequence where the whole channel was read, None where it was not.
        too_old: the newest sequence that is too old to be served.
    """

    stored: list[Stored]
    pending: int
    first: int | None
    held: int
    newest: int | None
    too_old: int

    @classmethod
    def of(cls, stored: list[Stored], pending: int, oldest_ts: int) -> Reading:
        """What a first reading shows."""
        return cls(
            stored,
            pending,
            first=stored[0].seq if stored else None,
            held=len(stored) + pending,
            newest=stored[-1].seq if stored and not pending else None,
            too_old=max((each.seq for each in stored if each.ts < oldest_ts), default=0),
        )

    @property
    def cut_before_served(self) -> bool:
        """Whether it begins with what is not served, and did not come to the end."""
        return self.pending > 0 and self.too_old > 0

    def again(self, stored: list[Stored], pending: int) -> Reading:
        """The same after a second reading that begins where serving begins, and found something."""
        too_old = max(self.too_old, stored[0].seq - 1)
        return msgspec.structs.replace(self, stored=stored, pending=pending, too_old=too_old)

    def nothing_served(self, last: Stored | None) -> Reading:
        """The same after a second reading that found nothing; `last` is the channel's last message."""
        too_old = max(self.too_old, last.seq if last is not None else 0)
        return msgspec.structs.replace(self, stored=[], pending=0, newest=too_old, too_old=too_old)

    def seen(self, oldest: Stored | None) -> Seen:
        """What it shows about the channel; `oldest` is the oldest message that is still held after the reading."""
        return Seen(self.first, self.held, oldest.seq if oldest is not None else None)

    def served(self, wanted: Wanted, floor: int) -> tuple[list[Stored], bool]:
        """What the page holds, and whether there is more."""
        found = [each for each in self.stored if each.seq > max(wanted.after, floor) and each.ts >= wanted.oldest_ts]
        return found[: wanted.limit], self.pending > 0 or len(found) > wanted.limit

    def before(self, served: list[Stored], oldest: Stored | None, after: int, floor: int) -> int:
        """The offset before the page: that of a message that links to it, else the position; 0 when there is a gap."""
        if not served or oldest is None:
            return 0
        linked = [each.seq for each in self.stored if oldest.seq <= each.seq < served[0].seq]
        if linked:
            return linked[-1]
        return after if after >= floor else 0


def publications(channel: str, epoch: str | None, before: int, served: list[Stored]) -> list[Publication]:
    """The page's publications, each with the offset before it."""
    befores = [before, *(each.seq for each in served)]
    return [
        Publication(channel, each.data, epoch, each.seq, prev, each.ts)
        for prev, each in zip(befores, served, strict=False)
    ]
