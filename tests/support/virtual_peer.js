/**
 * A peer and a clock for the browser client that need neither a network nor time. An hour of a conversation takes
 * milliseconds, and a storm of timers is a number.
 *
 * Rules: timers overflow as the browser's do (a delay is a signed number of 32 bits). A peer greets every socket, acks
 * every request and answers heartbeats, unless its `answer` or `greet` says otherwise.
 */

class VirtualClock {
  #timers = new Map();
  #last = 0;
  time = 0;
  fired = 0;

  setTimeout = (callback, ms) => {
    const due = this.time + Math.max(0, ms | 0);
    this.#timers.set(++this.#last, { callback, due, order: this.#last });
    return this.#last;
  };

  clearTimeout = (handle) => void this.#timers.delete(handle);

  now = () => this.time;

  /** How many timers wait. */
  get waiting() {
    return this.#timers.size;
  }

  /** Let this many milliseconds pass. */
  async advance(ms) {
    const end = this.time + ms;
    for (;;) {
      for (let turn = 0; turn < 20; turn += 1) await null; // promises of the client and of its token function
      const [next] = [...this.#timers].sort(([, a], [, b]) => a.due - b.due || a.order - b.order);
      if (!next || next[1].due > end) break;
      if (++this.fired > 100_000) throw new Error("a storm of timers");
      this.#timers.delete(next[0]);
      this.time = next[1].due;
      next[1].callback();
    }
    this.time = end;
  }
}

class VirtualPeer {
  clock = new VirtualClock();
  /** Every socket that was opened. */
  sockets = [];
  /** Every message that was received, with `at`. */
  received = [];
  states = [];
  limits = { message_bytes: 65_536, rate_burst: 100, rate_per_s: 10 };
  /** What a socket is greeted with; more may follow. */
  greet = (socket) => socket.establish();
  /** Answers of the test's own: null for the usual one, or a list. */
  answer = () => null;

  /** The client, connected to this peer; its states are in `states`. */
  async connect(options = {}) {
    const { connect } = await import("/trunkline.js");
    const peer = this;
    class Socket {
      readyState = 1;
      constructor(url, protocols = []) {
        Object.assign(this, { url, protocols, at: peer.clock.time, closedWith: undefined });
        peer.sockets.push(this);
        queueMicrotask(() => this.readyState === 1 && peer.greet(this));
      }
      /** What the client sends. */
      send(text) {
        const message = JSON.parse(text);
        peer.received.push({ ...message, at: peer.clock.time });
        queueMicrotask(() => this.say(...(peer.answer(message, this) ?? usual(message))));
      }
      /** The client closes. */
      close(code) {
        this.closedWith = code ?? 1005;
        this.readyState = 3;
      }
      /** The peer sends. */
      say(...messages) {
        for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) });
      }
      establish(fields = {}) {
        const rest = { connection_id: "k", node: "n", session: "s", resumed: false, heartbeat_interval_ms: 30_000 };
        this.say({ type: "connection_established", ...rest, limits: peer.limits, ...fields });
      }
      /** The peer closes. */
      end(code, goodbye) {
        if (goodbye) this.say({ type: "goodbye", code, reason: "r", reconnect: true, ...goodbye });
        this.readyState = 3;
        this.onclose?.({ code, reason: "" });
      }
    }
    const { setTimeout, clearTimeout, now } = this.clock;
    const timers = { setTimeout, clearTimeout, now };
    const client = connect("/ws", { WebSocket: Socket, timers, random: () => 0.5, ...options });
    client.on("state", (change) => this.states.push(change));
    await this.clock.advance(0);
    return client;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** The messages of a type that were received. */
  of(type) {
    return this.received.filter((message) => message.type === type);
  }

  /** A server's limit, as the client is told it: refuses what is above. */
  limited({ rate_burst, rate_per_s } = this.limits, hinted = true) {
    let [tokens, last] = [rate_burst, 0];
    this.refusals = 0;
    return (message) => {
      tokens = Math.min(rate_burst, tokens + ((this.clock.time - last) * rate_per_s) / 1000);
      last = this.clock.time;
      if (tokens >= 1) {
        tokens -= 1;
        return null;
      }
      this.refusals += 1;
      const wait = hinted ? { retry_after_ms: Math.floor(((1 - tokens) / rate_per_s) * 1000) + 1 } : {};
      return [refusal(message, "RATE_LIMIT_EXCEEDED", wait)];
    };
  }
}

const refusal = (message, code, fields = {}) => ({
  type: "error", id: message.id, code, message: "refused", temporary: true, ...fields,
});

function usual({ type, id, channels = [], channel }) {
  const positions = Object.fromEntries(channels.map((name) => [name, { epoch: "e", offset: 0, recovered: false, replayed: 0 }]));
  switch (type) {
    case "heartbeat":
      return [{ type: "pong", id }];
    case "subscribe":
      return [{ type: "subscription_ack", id, subscribed: channels, count: channels.length, positions }];
    case "unsubscribe":
      return [{ type: "unsubscription_ack", id, unsubscribed: channels, count: 0 }];
    case "publish":
      return [{ type: "publish_ack", id, channel, epoch: "e", offset: 1 }];
    case "replay":
      return [{ type: "replay_complete", id, channel, epoch: "e", from: 1, to: 1, sent: 0 }];
    case "refresh":
      return [{ type: "refresh_ack", id, expires_at: 0 }];
    default:
      return id === undefined ? [] : [{ type: "rpc_result", id, data: null }];
  }
}

Object.assign(globalThis, { VirtualPeer, refusal });
