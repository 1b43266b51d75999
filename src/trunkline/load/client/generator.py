"""Drives the sessions of one worker: opens them, gives them their messages, cuts them, reconnects them, counts.

Rules:

- Open model: everything has an intended moment from the plan; what is late is done at once and its latency counts from
  the intended moment. Nothing waits for an answer.
- One alarm for everything that is due, set to the next moment; no timer a connection, no task a message.
- How late the generator itself was is counted for every connection and message, so that the report tells a slow server
  from a slow generator.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Callable
from math import ceil, floor
from typing import Final

from trunkline.errors import StartError
from trunkline.load.client.alarm import Alarm, Moments, make_alarm
from trunkline.load.client.dial import Dialer, DialError
from trunkline.load.client.link import WebSocket
from trunkline.load.client.protocols import make_session
from trunkline.load.client.protocols.flow import load_flow
from trunkline.load.client.reconnect import LONGEST_HINT_S, STABLE_S
from trunkline.load.client.rota import Rota
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.messages import LONGEST_SETTLE, MAX_HOLES, Begin, Done, Hole, Job, Position, Sent, Settle
from trunkline.load.model.positions import merge_ends
from trunkline.load.model.tally import Beat, Tally
from trunkline.load.scenario.shapes import ConnectionPlan, Cuts, MessagePlan, spread
from trunkline.process import open_files

SPARE_FILES: Final = 100  # open files of a worker that are not connections
_PAUSE_S: Final = 0.0002  # the least time between two alarms: what becomes due meanwhile is done together
_SLOT_S: Final = 0.001
_SLOTS_ABOVE_PER_S: Final = 1_000.0

_NORMAL: Final = 1000
_PLANNED: Final = (1001, 1012)
"""A server that leaves, or is restarted: without a protocol of its own it has no goodbye to announce it."""

_ABNORMAL: Final = 1006
_CLOSE_S: Final = 5.0
_CLOSES_AT_ONCE: Final = 500
_POLL_S: Final = 0.02


class Generator:
    """One worker's part of a run; `report` gets what was counted, once a second, and `make` makes the sessions."""

    def __init__(
        self, job: Job, report: Callable[[Beat], None], make: Callable[[int, Shared, Moments], Session] = make_session
    ) -> None:
        self.job = job
        self._report = report
        self._make = make
        self._tally = Tally()
        self._rng = random.Random(job.seed * 1_000_003 + job.worker)  # noqa: S311  # no secrets here
        self._shared = Shared(job, self._tally, time.monotonic, self._rng, self._on_ready)
        self._moments = Moments(job.clock_offset_s)
        scenario = job.scenario
        self._connections = ConnectionPlan(scenario.stages, job.worker, job.workers)
        self._messages = MessagePlan(scenario.traffic, job.worker, job.workers, self._rng)
        self._abuse = MessagePlan.of_abusers(scenario.traffic, job.worker, job.workers, self._rng)
        self._cuts = Cuts(scenario.disturbances)
        self._cutting: list[tuple[float, int, bool, float]] = []
        self._coming_back: list[tuple[float, int, Session]] = []
        self._sessions: dict[int, Session] = {}
        self._ready = Rota()
        self._abusers = Rota()
        self._dialling: set[asyncio.Task[None]] = set()
        self._links: set[WebSocket] = set()
        self._dialer: Dialer | None = None
        self._alarm: Alarm | None = None
        self._over = asyncio.Event()
        self._second = 0
        self._sending = False
        self._cpu = 0.0

    async def prepare(self) -> int:
        """Look up the target and check the limit of open files; returns how many connections it allows.

        Raises StartError when the job cannot be done here.
        """
        peak, limit = self.job.scenario.peak, open_files.limit()
        share, allowed = ceil(peak / self.job.workers), limit - SPARE_FILES
        if share > allowed:
            # With a limit this low, no number of processes would do.
            more = f"Use --processes {ceil(peak / allowed)}, or raise" if allowed > 0 else "Raise"
            raise StartError(
                f"{share} connections in one process need {share + SPARE_FILES} open files, "
                f"and this process may have {limit}",
                f"{more} the limit (ulimit -n).",
            )
        if self.job.scenario.protocol == "python":
            load_flow(self.job.flow_source, self.job.scenario.flow)
        self._dialer = await Dialer.prepare(self.job.target)
        return allowed

    async def run(self, begin: Begin) -> Sent:
        """Go through all stages; returns with the connections still open."""
        self._shared.started = begin.at
        self._sending = True
        self._cpu = time.process_time()
        self._alarm = make_alarm(asyncio.get_running_loop(), self._tick)
        self._alarm.set(self._shared.local(begin.at))
        await self._over.wait()
        self._sending = False
        if self._at_end():
            while left := len(self._messages.due(self.job.scenario.duration_s, len(self._ready))):
                self._tally.because("not sent: the generator was too late", left)
        self._coming_back.clear()
        self._cutting.clear()
        self._beat()
        return Sent(self.job.worker, self._ends())

    def stop(self) -> None:
        """End the stages now."""
        self._over.set()

    def take_token(self, token: str) -> None:
        """A newer token is there: for new connections, and for those whose token expires."""
        self._shared.token = token
        for session in list(self._shared.expiring):
            session.refresh()

    async def settle(self, settle: Settle) -> Done:
        """Wait for what is still to come, count what is missing, close all connections."""
        await self._wait_settled(settle.ends)
        holes: list[Hole] = []
        for session in self._sessions.values():
            holes += session.finish(settle.ends)
        forgotten = sum(session.forgotten for session in self._sessions.values())
        await self._close_all()
        if self._alarm is not None:
            self._alarm.close()
        self._beat()
        return Done(self.job.worker, tuple(holes[:MAX_HOLES]), max(0, len(holes) - MAX_HOLES) + forgotten)

    def offsets(self, channel: str) -> dict[str, list[int]]:
        """Offsets that this worker published in a channel and that were acknowledged, growing, by epoch."""
        epochs = self._shared.published.get(channel, {})
        return {epoch: sorted(published.offsets) for epoch, published in epochs.items()}

    def _tick(self) -> None:
        shared = self._shared
        now = shared.now()
        at = now - shared.started
        if at >= self._second + 1:
            self._beat()
            self._second = int(at)
        if self._sending:
            for change in self._connections.due(at):
                if change.up:
                    self._start(change.number, shared.started + change.at_s)
                else:
                    self._end(change.number)
            self._send_due(at)
            self._cut_due(at, now)
            while self._coming_back and self._coming_back[0][0] <= now:
                moment, number, session = heapq.heappop(self._coming_back)
                # A session that the plan has closed does not come back, not even as the next one of its number.
                if self._sessions.get(number) is session:
                    self._dial(session, moment)
            if self._at_end():
                self._over.set()
        self._wake_at(now)

    def _wake_at(self, now: float) -> None:
        started = self._shared.started
        at = now - started
        moments: list[float | None] = [self._second + 1.0]
        if self._sending:
            message = self._messages.next(at, len(self._ready))
            slot = self._slot_s()
            moments += [
                ceil(message / slot) * slot if slot and message is not None else message, self._connections.next(),
                self._abuse.next(at, len(self._abusers)), self._cuts.next(), self.job.scenario.duration_s,
            ]  # fmt: skip
            moments += [heap[0][0] - started for heap in (self._coming_back, self._cutting) if heap]
        soonest = min(moment for moment in moments if moment is not None)
        if self._alarm is not None:
            self._alarm.set(self._shared.local(max(started + soonest, now + _PAUSE_S)))

    def _send_due(self, at: float) -> None:
        started, tally = self._shared.started, self._tally
        # A message planned within a slot is meant for its end, so that no latency holds what the slots add.
        slot = self._slot_s()
        moments = self._messages.due(floor(at / slot) * slot if slot else at, len(self._ready))
        if slot:
            moments = [ceil(moment / slot) * slot for moment in moments]
        next_session = self._ready.next
        for moment in moments:
            if (session := next_session()) is None:
                tally.because("not sent: no connection was ready")
            else:
                session.due(started + moment)
        if moments:
            tally.behind(self._shared.now() - started - moments[0], len(moments))
        for moment in self._abuse.due(at, len(self._abusers)):
            if (session := self._abusers.next()) is not None:
                session.due(started + moment)

    def _slot_s(self) -> float:
        """The slot in which messages are sent at high rates, where each wake-up costs as much as a message; else 0."""
        traffic = self.job.scenario.traffic
        rate = traffic.rate / self.job.workers + traffic.rate_each * len(self._ready)
        return _SLOT_S if rate > _SLOTS_ABOVE_PER_S else 0.0

    def _cut_due(self, at: float, now: float) -> None:
        for disturbance in self._cuts.due(at):
            open_now = [session.number for session in self._sessions.values() if session.link is not None]
            for moment, number in spread(disturbance, open_now, self._rng):
                entry = (self._shared.started + moment, number, disturbance.action == "drop", disturbance.away_s)
                heapq.heappush(self._cutting, entry)
        while self._cutting and self._cutting[0][0] <= now:
            moment, number, drop, away_s = heapq.heappop(self._cutting)
            session = self._sessions.get(number)
            if session is None or session.link is None:
                continue
            back = moment + away_s
            self._cut(session, drop)
            session.lost_at = back
            heapq.heappush(self._coming_back, (back, number, session))

    def _at_end(self) -> bool:
        return self._shared.now() - self._shared.started >= self.job.scenario.duration_s

    def _start(self, number: int, intended: float) -> None:
        session = self._make(number, self._shared, self._moments)
        traffic = self.job.scenario.traffic
        # By number, so that the shares are exact whatever the count, and spread over all workers.
        session.abusive = _in_share(number, traffic.abuse_share)
        session.slow = not session.abusive and _in_share(number, traffic.slow_share)
        self._sessions[number] = session
        self._dial(session, intended)

    def _end(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None and session.link is not None:
            self._cut(session, drop=False)

    def _cut(self, session: Session, drop: bool) -> None:
        """End a session's connection; a closing handshake goes on without the session."""
        link, session.link = session.link, None
        self._tally.totals.cut += 1
        self._not_ready(session)
        session.ended(_ABNORMAL if drop else _NORMAL, "")
        if link is not None:
            if drop:
                link.abort()
            else:
                link.close()

    def _dial(self, session: Session, intended: float) -> None:
        task = asyncio.create_task(self._open(session, intended))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _open(self, session: Session, intended: float) -> None:
        tally, shared = self._tally, self._shared
        dialer = self._dialer
        if dialer is None:
            raise RuntimeError("run before prepare")
        tally.totals.attempts += 1
        tally.behind(shared.now() - intended)
        tcp_done = 0.0
        is_up = False

        def dialled(seconds: float) -> None:
            nonlocal tcp_done
            tally.dial.record(seconds)
            tcp_done = shared.now()

        def up(link: WebSocket) -> None:
            nonlocal is_up
            is_up = True
            now = shared.now()
            tally.totals.opened += 1
            tally.open += 1
            tally.handshake.record(now - tcp_done)
            tally.connect.record(now - intended)
            self._links.add(link)
            if self._sessions.get(session.number) is not session:
                link.close()  # the plan closed it before it was open
                return
            session.link = link
            session.opened_at = now
            session.opened()

        slow = self.job.scenario.traffic.slow_bytes_per_s if session.slow else 0
        session.token = shared.token
        try:
            await dialer.open(
                lambda: WebSocket(session, tally, up, self._on_down, slow), dialled, session.token, session.session_id
            )
        except DialError as error:
            tally.totals.failed += 1
            tally.because(error.reason)
            session.attempt += 1
            away = session.comes_back_after(_ABNORMAL, session.attempt - 1)
            if away is not None:
                self._comes_back(session, max(away, min(error.retry_after_s or 0.0, LONGEST_HINT_S)))
        except asyncio.CancelledError:
            if not is_up:
                tally.totals.failed += 1
                tally.because("connect: not open when the run ended")
            raise

    def _on_down(self, link: WebSocket, code: int, reason: str) -> None:
        self._links.discard(link)
        tally, session = self._tally, link.session
        tally.open -= 1
        if session.link is not link:
            return
        session.link = None
        self._not_ready(session)
        session.ended(code, reason)
        if link.ended_by_us:
            return
        totals = tally.totals
        totals.closed += 1
        tally.closes[code] += 1
        if session.said_goodbye or code in _PLANNED:
            totals.goodbyes += 1
        elif session.slow:
            totals.shed += 1
        else:
            tally.because(f"closed: {code} {reason}".rstrip())
        if session.lost_at is None:
            session.lost_at = self._shared.now()
        # Only a connection that stayed ends the back-off: a server that lets nobody stay would be hammered.
        if self._shared.now() - session.opened_at >= STABLE_S:
            session.attempt = 0
        away = session.comes_back_after(code, session.attempt)
        session.attempt += 1
        if away is not None and self.job.scenario.reconnect:
            self._comes_back(session, away)

    def _comes_back(self, session: Session, away_s: float) -> None:
        if not self._sending or self._sessions.get(session.number) is not session:
            return
        heapq.heappush(self._coming_back, (self._shared.now() + away_s, session.number, session))
        self._wake_at(self._shared.now())

    def _on_ready(self, session: Session) -> None:
        # A slow reader only listens: answers would reach it long after they were given up.
        if not session.slow:
            rota = self._abusers if session.abusive else self._ready
            rota.add(session)
            if len(rota) == 1:
                self._wake_at(self._shared.now())

    def _not_ready(self, session: Session) -> None:
        (self._abusers if session.abusive else self._ready).remove(session)

    def _ends(self) -> dict[str, Position]:
        return merge_ends(
            {name: Position(epoch, max(published.offsets), published.at)}
            for name, epochs in self._shared.published.items()
            for epoch, published in epochs.items()
        )

    async def _wait_settled(self, ends: dict[str, Position]) -> None:
        """Until everything is there and every dial has ended, or nothing has come for `settle_s`."""
        patience = self.job.settle_s
        last_sign = began = time.monotonic()
        waiting = list(self._sessions.values())
        received = -1
        while True:
            waiting = [session for session in waiting if not session.settled(ends)]
            now = time.monotonic()
            if self._tally.received != received:
                received, last_sign = self._tally.received, now
            given_up = now - last_sign > patience or now - began > LONGEST_SETTLE * patience
            if given_up or not (waiting or self._dialling):
                return
            await asyncio.sleep(_POLL_S)

    async def _close_all(self) -> None:
        for task in self._dialling:
            task.cancel()
        links = list(self._links)
        for first in range(0, len(links), _CLOSES_AT_ONCE):
            for link in links[first : first + _CLOSES_AT_ONCE]:
                link.close()
            await asyncio.sleep(0)
        deadline = time.monotonic() + _CLOSE_S
        while self._links and time.monotonic() < deadline:  # noqa: ASYNC110  # rare, and with a deadline
            await asyncio.sleep(_POLL_S)
        for link in list(self._links):
            self._tally.because("the server did not answer the close frame")
            link.abort()
        await asyncio.sleep(0)

    def _beat(self) -> None:
        cpu, self._cpu = self._cpu, time.process_time()
        self._report(self._tally.beat(self.job.worker, self._second, self._cpu - cpu))


def _in_share(number: int, share: float) -> bool:
    """Whether a session belongs to a share of all: of any run of numbers, the share is exact within one."""
    return int((number + 1) * share) > int(number * share)
