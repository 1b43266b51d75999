"""The node's test page in a browser, against a scripted imitation of the stock app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from playwright.async_api import Browser, Page, expect

from tests.support.scripted_peer import Peer, Wire, publication, subscription_ack

pytestmark = pytest.mark.asyncio(loop_scope="session")


class StockApp:
    """Answers like the feed, chat and match endpoints do, for a handful of tabs of one test."""

    def __init__(self, peer: Peer) -> None:
        """Attach to the peer: every connection from now on is served."""
        self.wires: dict[str, Wire] = {}
        self.offsets: dict[str, int] = {}
        self.members: dict[str, list[Wire]] = {}
        self.players: dict[str, list[str]] = {}
        peer.on_connect = self.serve

    def serve(self, wire: Wire) -> None:
        """Take a connection by its path."""
        url = urlsplit(wire.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/ws":
            self.wires["feed"] = wire
            wire.on_message = lambda message: self.feed(wire, message)
            wire.greeting = []
        elif url.path.startswith("/ws/chat/"):
            self.wires["chat"] = wire
            channel = f"chat.{query['room']}"
            self.members.setdefault(channel, []).append(wire)
            name = wire.connection_id = url.path.rsplit("/", 1)[1]
            wire.on_message = lambda message: self.chat(channel, name, message)
            wire.greeting = [subscription_ack({channel: {"offset": self.offsets.get(channel, 0)}})]
        else:
            match, player = query["matchId"], query["player"]
            self.wires["match"] = wire
            players = self.players.setdefault(match, [])
            players.append(player)
            wire.on_message = lambda message: self.move(f"match.{match}", message)
            joined = {"type": "player_joined", "match": match, "player": player, "players": players}
            wire.greeting = [subscription_ack({f"match.{match}": {"offset": 0}}), joined]

    def place(self, channel: str) -> int:
        """The next offset of a channel."""
        self.offsets[channel] = self.offsets.get(channel, 0) + 1
        return self.offsets[channel]

    def feed(self, wire: Wire, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer a message on /ws."""
        match message["type"]:
            case "subscribe":
                heads = {name: {"offset": self.offsets.get(name, 0)} for name in message["channels"]}
                return [subscription_ack(heads, message["id"])]
            case "publish":
                channel = message["channel"]
                offset = self.place(channel)
                ack = {"type": "publish_ack", "id": message["id"], "channel": channel, "epoch": "e1", "offset": offset}
                return [publication(offset, channel=channel, data=message["data"]), ack]
            case "replay":
                head = self.offsets.get(message["channel"], 0)
                old = [publication(n, channel=message["channel"]) for n in range(message["since"] + 1, head + 1)]
                done = {"type": "replay_complete", "id": message["id"], "channel": message["channel"], "epoch": "e1"}
                return [*old, {**done, "from": message["since"] + 1, "to": head, "sent": len(old)}]
            case _:
                return []

    def chat(self, channel: str, name: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer a message in a room."""
        if message["type"] != "message":
            return []
        line = publication(self.place(channel), channel=channel, data={"from": name, "text": message["text"]})
        return [line, {"type": "message_response", "id": message["id"], "count": 1, "room": channel[5:]}]

    def move(self, channel: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer a move with the ack that stands in the channel's order."""
        if message["type"] != "move":
            return []
        offset = self.place(channel)
        ack = {"type": "publish_ack", "id": message["id"], "channel": channel, "epoch": "e1"}
        return [{**ack, "offset": offset, "prev": offset - 1}]


@pytest.fixture
def app(peer: Peer) -> StockApp:
    """The imitation on the test's peer."""
    return StockApp(peer)


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, peer: Peer, app: StockApp) -> AsyncIterator[Page]:
    """A tab under the node's content policy; it fails the test when the page raises or breaks the policy."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    yield page
    await context.close()
    assert faults == []


async def test_every_connection_shows_state_url_node_and_id(page: Page, peer: Peer) -> None:
    """Feed and chat open by themselves and say where they are."""
    await page.goto(f"{peer.origin}/?name=ann")
    for name, url, connection_id in (("feed", "/ws", "k1"), ("chat", "/ws/chat/ann?room=lobby", "ann")):
        await expect(page.get_by_test_id(f"state-{name}")).to_have_text("open")
        await expect(page.get_by_test_id(f"url-{name}")).to_have_text(f"ws://127.0.0.1:{peer.port}{url}")
        await expect(page.get_by_test_id(f"node-{name}")).to_have_text("node-a")
        await expect(page.get_by_test_id(f"id-{name}")).to_have_text(connection_id)
    await expect(page.get_by_test_id("node-name")).to_have_text("node-a")


async def test_a_lost_connection_is_shown_and_comes_back(page: Page, peer: Peer, app: StockApp) -> None:
    """The pill says reconnecting while a pause lasts and open afterwards; a final close says closed."""
    await page.goto(peer.origin)
    await expect(page.get_by_test_id("state-feed")).to_have_text("open")
    goodbye = {"type": "goodbye", "code": 1012, "reason": "draining", "reconnect": True, "reconnect_after_ms": 1500}
    await app.wires["feed"].send(goodbye)
    await app.wires["feed"].close(1012)
    await expect(page.get_by_test_id("state-feed")).to_have_text("reconnecting")
    await expect(page.get_by_test_id("detail-feed")).to_contain_text("draining (1012), attempt 1, retry in")
    await expect(page.get_by_test_id("state-feed")).to_have_text("open")
    await app.wires["feed"].close(4003, "forbidden")
    await expect(page.get_by_test_id("state-feed")).to_have_text("closed")


async def test_subscribe_publish_and_replay(page: Page, peer: Peer) -> None:
    """A publication shows with its offset, markup in it stays text, and a replay is marked as one."""
    await page.goto(peer.origin)
    await page.get_by_test_id("subscribe").click()
    await expect(page.get_by_test_id("subscriptions")).to_contain_text("public.news")
    await page.get_by_test_id("publish-data").fill('{"html": "<img src=x>"}')
    await page.get_by_test_id("publish").click()
    stream = page.get_by_test_id("publications")
    await expect(stream.locator("li")).to_have_count(1)
    await expect(stream).to_contain_text('{"html":"<img src=x>"}')
    await expect(stream).to_contain_text("#1")
    await expect(stream.locator("img")).to_have_count(0)
    await page.get_by_test_id("replay").click()
    await expect(stream.locator("li.replayed")).to_have_count(1)
    await expect(page.get_by_test_id("channels-note")).to_contain_text("Replayed 1")


async def test_chat_sends_and_shows_a_line(page: Page, peer: Peer) -> None:
    """A line goes out, comes back through the room and clears the field."""
    await page.goto(f"{peer.origin}/?name=ann&room=tea")
    await expect(page.get_by_test_id("chat-note")).to_have_text("In tea.")
    await page.get_by_test_id("chat-text").fill("good morning")
    await page.get_by_test_id("chat-text").press("Enter")
    await expect(page.get_by_test_id("chat-lines")).to_contain_text("good morning")
    await expect(page.get_by_test_id("chat-lines")).to_contain_text("ann (you)")
    await expect(page.get_by_test_id("chat-text")).to_have_value("")


async def test_a_match_is_joined_by_url_or_by_form(page: Page, peer: Peer, app: StockApp) -> None:
    """`?matchId=` joins at once; leaving shows the form again, and the form puts the match into the URL."""
    await page.goto(f"{peer.origin}/?matchId=m1&player=ann")
    await expect(page.get_by_test_id("match-players")).to_have_text("ann")
    await page.get_by_test_id("move-data").fill("e2e4")
    await page.get_by_test_id("move-send").click()
    await expect(page.get_by_test_id("match-moves")).to_contain_text("e2e4")
    await app.wires["match"].send(
        publication(2, channel="match.m1", data={"player": "bob", "data": {"type": "move", "data": "e7e5"}})
    )
    await expect(page.get_by_test_id("match-moves")).to_contain_text("bob#2")
    await expect(page.get_by_test_id("match-moves").locator("code").last).to_have_text("e7e5")
    await expect(page.get_by_test_id("match-moves").locator(".gap")).to_have_count(0)
    await page.get_by_test_id("match-leave").click()
    assert "matchId" not in page.url
    await page.get_by_test_id("match-id").fill("m2")
    await page.get_by_test_id("match-join").click()
    await expect(page.get_by_test_id("state-match")).to_have_text("open")
    assert "matchId=m2" in page.url


async def test_the_log_pauses_and_clears(page: Page, peer: Peer, app: StockApp) -> None:
    """Messages in and out appear; paused, they are counted; cleared, they are gone."""
    await page.goto(peer.origin)
    await expect(page.get_by_test_id("log")).to_contain_text("connection_established")
    await page.get_by_test_id("log-pause").click()
    await app.wires["feed"].send({"type": "unheard"})
    await expect(page.get_by_test_id("log-pause")).to_have_text("Resume (1 skipped)")
    await page.get_by_test_id("log-clear").click()
    await expect(page.get_by_test_id("log").locator("li")).to_have_count(0)
    await page.get_by_test_id("log-pause").click()
    await app.wires["feed"].send({"type": "heard"})
    await expect(page.get_by_test_id("log")).to_contain_text("heard")


@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_nothing_is_cut_off_sideways(page: Page, peer: Peer, width: int) -> None:
    """The page fits its width on a phone, a tablet and a desktop."""
    await page.set_viewport_size({"width": width, "height": 800})
    await page.goto(f"{peer.origin}/?matchId=m1&name={'long' * 12}")
    await expect(page.get_by_test_id("state-match")).to_have_text("open")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
