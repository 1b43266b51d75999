"""Random walks of the browser client in virtual time: whatever happens in whatever order, some things always hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

Virtual = Callable[[str], Awaitable[Any]]

WALK = """
  const peer = new VirtualPeer(), clock = peer.clock;
  let state = seed;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const pick = (list) => list[Math.floor(random() * list.length)];
  const say = (target, type) => target.dispatchEvent(new Event(type));
  const live = () => peer.sockets.filter((socket) => socket.readyState === 1);
  const end = (...how) => live()[0]?.end(...how);

  let mood = "well";
  peer.greet = (socket) => {
    if (mood === "well" || mood === "silent") socket.establish({ heartbeat_interval_ms: 0 });
    else socket.end(1012, { reconnect_after_ms: pick([0, 500, 60_000, 1e300]) });
  };
  // What the server has subscribed for each socket: what it refuses or does not answer it has not done.
  const subscribed = new Map();
  peer.answer = (message, socket) => {
    if (mood === "silent" || (mood !== "healed" && random() < 0.1)) return [];
    const pause = pick([{}, { retry_after_ms: 0 }, { retry_after_ms: 3000 }, { retry_after_ms: 1e300 }]);
    const code = pick(["UNAVAILABLE", "RATE_LIMIT_EXCEEDED", "TIMEOUT"]);
    if (mood !== "healed" && random() < 0.2) return [refusal(message, code, pause)];
    const names = subscribed.get(socket) ?? subscribed.set(socket, new Set()).get(socket);
    if (message.type === "subscribe") for (const name of message.channels) names.add(name);
    if (message.type === "unsubscribe") for (const name of message.channels) names.delete(name);
    return null;
  };
  let tokens = 0;
  const token = () => { if (random() < 0.2) throw new Error("down"); return `t${(tokens += pick([0, 1]))}`; };
  const c = await peer.connect({ random, ...(random() < 0.5 ? { token } : {}) });
  const often = pick([0, 0.05]);
  for (const type of ["state", "sent", "*"]) c.on(type, () => random() < often && c.reconnect());
  let asked = 0, settled = 0;
  const publish = () => { asked += 1; c.publish("a", 1).catch(() => 0).then(() => (settled += 1)); };
  const held = [];

  const steps = {
    online: () => say(window, "online"),
    offline: () => say(window, "offline"),
    resume: () => say(document, "resume"),
    visible: () => say(document, "visibilitychange"),
    left: () => say(window, "pagehide"),
    shown: () => say(window, "pageshow"),
    lost: () => end(1006),
    moved: () => end(1012, { reconnect_after_ms: pick([0, 100, 9000, 2 ** 40]) }),
    expired: () => end(4002, {}),
    expiring: () => live()[0]?.say({ type: "token_expiring", expires_in_ms: 30_000 }),
    publish,
    burst: () => { for (let n = 0; n < 150; n += 1) publish(); },
    subscribe: () => held.push(c.subscribe(`channel.${Math.floor(random() * 5)}`)),
    leave: () => held.splice(Math.floor(random() * held.length), 1)[0]?.unsubscribe(),
    reconnect: () => c.reconnect(),
    mood: () => { mood = pick(["well", "well", "silent", "bad"]); },
    time: () => clock.advance(pick([0, 10, 1000, 6000, 40_000])),
    more: () => clock.advance(pick([0, 10, 1000, 6000, 40_000])),
  };
  const check = (what, holds) => { if (!holds) throw new Error(`seed ${seed}, after ${done.join()}: ${what}`); };
  const done = [];
  for (let n = 0; n < 60; n += 1) {
    done.push(pick(Object.keys(steps)));
    await steps[done.at(-1)]();
    const count = live().length;
    check(`${count} sockets while ${c.state}`, count <= 1 && (c.state !== "open" || count === 1));
  }
  mood = "healed";
  peer.greet = (socket) => socket.establish({ heartbeat_interval_ms: 0 });
  say(window, "pageshow");
  await clock.advance(4_000_000);
  check(c.state, c.state === "open");
  const names = (list) => [...new Set(list)].sort().join();
  check("other channels", names(subscribed.get(live()[0]) ?? []) === names(held.map((one) => one.channel)));
  c.close();
  await clock.advance(0);
  check(`${clock.waiting} timers wait`, clock.waiting === 0);
  check("a request is not settled", settled === asked);
"""


async def test_what_always_holds(virtual: Virtual) -> None:
    """One socket at most, all requests settled; in the end open, with the wanted channels; no timer after close()."""
    await virtual(
        f"addEventListener('error', (e) => e.preventDefault()); for (let seed = 0; seed < 200; seed += 1) {{ {WALK} }}"
    )
