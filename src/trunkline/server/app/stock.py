"""The app that runs when no other is named: feed, chat, matches and echo; written with the public API alone."""

from __future__ import annotations

import re
import secrets
import time
from typing import Annotated

import msgspec

from trunkline import App, BusUnavailable, Client, Endpoint, Limits, Position, Publication, Refused, Request
from trunkline.protocol import close_codes
from trunkline.protocol.wire import ChatMessage, MessageResponse, PlayerJoined, PlayerLeft
from trunkline.server.app.decoding import message_id
from trunkline.server.app.roster import REFRESH_S, Roster

_NAME = re.compile(r"[A-Za-z0-9_~:@=+-]{1,64}")


def _name(request: Request, parameter: str, default: str | None = None) -> str:
    """A query parameter that becomes part of a channel's name; refuses the handshake when it cannot."""
    value = request.query.get(parameter, default)
    if value is None:
        raise Refused(400, f"query parameter {parameter} is missing")
    if not _NAME.fullmatch(value):
        raise Refused(400, f"query parameter {parameter} must be 1 to 64 of A-Z a-z 0-9 _ ~ : @ = + -")
    return value


def _position(client: Client) -> Position | None:
    """Where a reconnecting client left off in the channel that the endpoint joins for it: `?epoch=` and `?offset=`."""
    query = client.query
    epoch, offset = query.get("epoch", ""), query.get("offset", "")
    return Position(epoch, int(offset)) if epoch and re.fullmatch(r"[0-9]{1,15}", offset) else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Feed(Endpoint):
    """Channels by themselves: the server does all there is to do."""


class Echo(Endpoint):
    """Returns every message unchanged."""

    def on_message(self, client: Client, message: str | bytes) -> None:
        """Send it back as it came."""
        client.send(message)


class Line(msgspec.Struct):
    """What a chat channel carries."""

    sender: str = msgspec.field(name="from")
    text: str = ""


class ChatSeat(msgspec.Struct):
    """Where a chat client sits, and how many lines it has sent."""

    room: str
    count: int = 0


class Chat(Endpoint):
    """A line that one client sends reaches everyone in its room."""

    def admit(self, request: Request) -> None:
        """The room's name has to make a channel's name."""
        _name(request, "room", "lobby")

    async def on_connect(self, client: Client) -> None:
        """Join the room."""
        seat = client.state.seat = ChatSeat(client.query.get("room", "lobby"))
        await client.join(f"chat.{seat.room}", _position(client))

    async def on_message(self, client: Client, message: ChatMessage) -> None:
        """Publish it to the room, then answer."""
        seat = client.state.seat
        assert isinstance(seat, ChatSeat)  # noqa: S101 - on_connect set it
        await client.publish(f"chat.{seat.room}", Line(client.id, message.text))
        seat.count += 1
        client.send(MessageResponse(message.id, seat.count, seat.room, _now_ms()))


class Presence(msgspec.Struct):
    """A node's players of a match, as it announces them to the others. With `ask`, each answers with its own."""

    node: str
    players: list[Annotated[str, msgspec.Meta(max_length=80)]]
    ask: bool = False


class Table:
    """A match on this node: its players here, and what is known of the others."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.clients: set[Client] = set()


class Seat(msgspec.Struct):
    """Where a player sits."""

    match: str
    player: str


class Move(msgspec.Struct):
    """What a match channel carries: who did what."""

    player: str
    data: msgspec.Raw


def _seat(client: Client) -> Seat | None:
    """Where a client sits; None when it found no seat."""
    seat = client.state.seat if "seat" in client.state else None
    return seat if isinstance(seat, Seat) else None


class Match(Endpoint):
    """What one player sends reaches the others of the match, and so does who comes and goes, on whatever node."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._node = secrets.token_hex(6)
        self._tables: dict[str, Table] = {}
        self._decode = msgspec.json.Decoder(Presence).decode

    def admit(self, request: Request) -> None:
        """The match must be named and have a seat left."""
        match = _name(request, "matchId")
        _name(request, "player", "anonymous")
        table = self._tables.get(match)
        seats = self._app.settings.server.match_players
        if table is not None and len(table.roster.players) >= seats:
            raise Refused(503, f"match {match} has its {seats} players", retry_after_s=5, label="match_full")

    async def on_connect(self, client: Client) -> None:
        """Take a seat, announce it here, and learn from the other nodes who is there."""
        match = client.query["matchId"]
        await client.join(f"match.{match}", _position(client))
        if match not in self._tables:
            # The table is made when the node listens: a bus that fails here must leave none that never learns.
            await self._app.listen(f"presence.match.{match}", self._learn)
            if match in self._tables:
                self._app.unlisten(f"presence.match.{match}", self._learn)
            else:
                self._tables[match] = Table()
        table = self._tables[match]
        if not client.connected:
            await self._leave_table(match, table)
            return
        if len(table.roster.players) >= self._app.settings.server.match_players:
            # Others took the last seats since it was admitted.
            client.close(close_codes.OVERLOADED.code, "match is full", reconnect_after_ms=5000)
            await self._leave_table(match, table)
            return
        player = table.roster.enter(client.query.get("player", client.id), client.id[:4])
        client.state.seat = Seat(match, player)
        table.clients.add(client)
        self._send(table, PlayerJoined(match, player, table.roster.players, _now_ms()))
        await self._announce(match, table, ask=len(table.clients) == 1)

    async def on_message(self, client: Client, message: msgspec.Raw) -> None:
        """Pass a player's message to the others."""
        seat = _seat(client)
        if seat is not None:
            id = message_id(bytes(message))
            await client.publish(f"match.{seat.match}", Move(seat.player, message), to_others=True, id=id)

    async def on_disconnect(self, client: Client, code: int, reason: str) -> None:
        """Give the seat back."""
        seat = _seat(client)
        table = self._tables.get(seat.match) if seat is not None else None
        if seat is None or table is None or client not in table.clients:
            return
        table.clients.discard(client)
        table.roster.leave(seat.player)
        self._send(table, PlayerLeft(seat.match, seat.player, table.roster.players, _now_ms()))
        await self._leave_table(seat.match, table)

    async def refresh(self) -> None:
        """Announce again who is here, and give up nodes that fell silent."""
        for match, table in list(self._tables.items()):
            self._show(match, table, table.roster.expire(time.monotonic()))
            await self._announce(match, table)

    async def _leave_table(self, match: str, table: Table) -> None:
        await self._announce(match, table)
        if not table.clients and self._tables.get(match) is table:
            del self._tables[match]
            self._app.unlisten(f"presence.match.{match}", self._learn)

    def _learn(self, publication: Publication) -> None:
        presence = self._decode(publication.data)
        match = publication.channel.removeprefix("presence.match.")
        table = self._tables.get(match)
        if table is None or presence.node == self._node:
            return
        self._show(match, table, table.roster.hear(presence.node, presence.players, time.monotonic()))
        if presence.ask:
            self._app.spawn(self._announce(match, table))

    def _show(self, match: str, table: Table, change: tuple[list[str], list[str]]) -> None:
        joined, left = change
        players = table.roster.players
        for player in joined:
            self._send(table, PlayerJoined(match, player, players, _now_ms()))
        for player in left:
            self._send(table, PlayerLeft(match, player, players, _now_ms()))

    def _send(self, table: Table, message: PlayerJoined | PlayerLeft) -> None:
        for client in table.clients:
            if client.connected:
                client.send(message)

    async def _announce(self, match: str, table: Table, *, ask: bool = False) -> None:
        try:
            await self._app.publish(f"presence.match.{match}", Presence(self._node, table.roster.local, ask))
        except BusUnavailable:
            # The next refresh announces it again; until then each node shows its own players.
            return


def create() -> App:
    """Make the stock app."""
    made = App("trunkline stock app")
    made.page = "index.html"
    match = Match(made)
    # Conformance suites want what they compressed to come back compressed, however small.
    echo = Limits(message_bytes=16 << 20, rate_per_s=0, outbox_bytes=33 << 20, deflate_min_bytes=0)
    made.websocket("/ws", channels=True)(Feed)
    made.websocket("/ws/echo", envelope=False, limits=echo, setting="echo")(Echo)
    made.websocket("/ws/chat/{connection_id}", message=ChatMessage, channels=True, setting="chat")(Chat)
    made.websocket("/api/game", message=msgspec.Raw, channels=True, setting="chat")(match)
    made.every(REFRESH_S)(match.refresh)
    return made


app = create()
