// @ts-check
/**
 * trunkline.js: the browser client of Trunkline. One ES module, nothing to install.
 *
 * Idea: the client knows its position `(epoch, offset)` in every channel, so after any reconnect it can ask for what it
 * missed, drop what it has already seen, and say so when something is gone. A loss is never silent.
 *
 * Rules:
 * - Nothing is queued for sending. While the connection is not open, `publish` and `send` reject as temporary.
 * - A connection comes back by itself until a close code or a `goodbye` says that it must not, or `close()` is called.
 * - Decisions (what to do after a close, what a publication means at a position) are plain functions and the class
 *   `Channel`; they touch no socket and no timer. `Connection` is the thin part that does.
 * - A callback that throws is reported like any uncaught error and changes nothing else.
 *
 *     import { connect } from "/trunkline.js";
 *     const feed = connect("/ws");
 *     feed.subscribe("public.news", { onPublication: (data) => console.log(data) });
 */

/**
 * A place in a channel. Offsets of different epochs cannot be compared.
 * @typedef {{epoch: string, offset: number}} Position
 */
/**
 * A message as the server sends it; the fields depend on `type`.
 * @typedef {{type: string, ts?: number, id?: string | number, [field: string]: any}} Message
 */
/**
 * One message of a channel. `epoch`, `offset` and `prev` are null in a channel without history.
 * @typedef {{type: string, channel: string, epoch: string | null, offset: number | null, prev: number | null,
 *   data: any, ts?: number}} Publication
 */
/**
 * Publications that will not arrive by themselves: those with `after < offset < before`; `before` is null when the
 * end is not known. Reasons from the server: `epoch_changed`, `expired`, `no_history`, or why its outbox dropped them.
 * Reasons found by this client: `missed` (the chain of offsets has a hole), `epoch_changed`, `not_recovered` (the
 * server went on while we were away). What to do: fetch the state again, or `replay` the range.
 * @typedef {{channel: string, epoch: string | null, after: number | null, before: number | null, reason: string}} Gap
 */
/**
 * What the server said when it subscribed us.
 * @typedef {{channel: string, epoch: string | null, offset: number | null, recovered: boolean, replayed: number,
 *   reason?: string}} Subscribed
 */
/**
 * Callbacks of one subscription; all optional.
 * @typedef {object} Handlers
 * @property {(data: any, publication: Publication) => void} [onPublication] each new publication once, in order
 * @property {(gap: Gap) => void} [onGap] publications were lost to this client
 * @property {(position: Subscribed) => void} [onSubscribed] after the first subscribe and after every reconnect
 * @property {(error: TrunklineError) => void} [onError] the server refused the subscription permanently
 */
/**
 * @typedef {"connecting" | "open" | "reconnecting" | "closed"} State
 */
/**
 * What `on("state")` hands out. `retryInMs` is null unless a retry is waiting; `code` is null unless a close led here.
 * @typedef {{state: State, url: string, detail: string, attempt: number, retryInMs: number | null,
 *   code: number | null}} StateChange
 */
/**
 * @typedef {object} Timers
 * @property {(callback: () => void, ms: number) => any} setTimeout
 * @property {(handle: any) => void} clearTimeout
 * @property {() => number} now milliseconds, never going back
 */
/**
 * @typedef {object} Options
 * @property {string | (() => string | null | undefined | Promise<string | null | undefined>)} [token] a JWT, or a
 *   function that gives one; it is called before every attempt, so an expired token heals by itself
 * @property {"subprotocol" | "query"} [tokenIn] where the token travels; "subprotocol" (default) keeps it out of URLs
 *   and so out of access logs, "query" is for peers that know no subprotocols
 * @property {{min?: number, max?: number}} [backoff] milliseconds; default 500 and 30000
 * @property {number} [connectTimeoutMs] give an attempt up after this long; default 15000
 * @property {number} [requestTimeoutMs] reject an unanswered request after this long; default 30000
 * @property {number} [stableAfterMs] how long open until the back-off starts from its minimum again; default 5000
 * @property {new (url: string, protocols?: string[]) => WebSocket} [WebSocket] for tests
 * @property {() => number} [random] for tests; uniform in [0, 1)
 * @property {Timers} [timers] for tests
 */
/**
 * A request whose answer is outstanding. `asked` holds the positions a subscribe wanted recovered.
 * @typedef {{resolve: (answer: any) => void, reject: (error: TrunklineError) => void, timer: any,
 *   asked?: Record<string, Position>, replay?: Replay}} Pending
 */
/**
 * @typedef {{channel: string, epoch: string | null, from: number, to: number, seen: Set<number>,
 *   publications: Publication[], onPublication?: (data: any, publication: Publication) => void}} Replay
 */

/** Close codes of the protocol after which a new attempt would end the same way. */
export const FINAL_CLOSE_CODES = Object.freeze([1000, 1002, 1003, 1007, 1009, 4001, 4003]);

/** The one code of the private range (3000 to 4999) that the protocol lets come back: idle too long. */
const IDLE = 4008;

/** Silence of this many heartbeat intervals means that the connection is dead although nobody closed it. */
const SILENT_INTERVALS = 2.5;

/** An error's `retry_after_ms` explains a close only when the close follows within this time. */
const PAUSE_VALID_MS = 10_000;

/**
 * What a promise of this client rejects with.
 *
 * `code` is the server's error code, or one of the client's own: `NOT_OPEN` (nothing was sent), `TOO_BIG` (nothing was
 * sent), `DISCONNECTED` and `TIMEOUT` (it was sent; whether it took effect is unknown), `CLOSED`.
 * `temporary` says whether the same call may succeed later.
 */
export class TrunklineError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {boolean} temporary
   * @param {number | null} [retryAfterMs]
   */
  constructor(code, message, temporary, retryAfterMs = null) {
    super(message);
    this.name = "TrunklineError";
    this.code = code;
    this.temporary = temporary;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * Full jitter: uniform between 0 and an exponentially growing ceiling, so that clients cut off together come back
 * spread.
 * @param {number} attempt 0 for the first retry
 * @param {{min: number, max: number}} backoff milliseconds
 * @param {() => number} random
 * @returns {number} milliseconds
 */
export function backoffDelay(attempt, backoff, random) {
  return random() * Math.min(backoff.max, backoff.min * 2 ** attempt);
}

/**
 * Decide what follows a close.
 *
 * A `goodbye` is the server's own plan and goes before the back-off, for one attempt. `retryAfterMs`, from an `error`,
 * does so only for the two codes that promise a pause (1008, 1013): with others it spoke of one message. Without a hint
 * these two wait at least four times the minimum. An application's own code (3000 and above) is final unless its
 * goodbye says otherwise.
 * @param {{code: number, attempt: number, goodbye: Message | null, retryAfterMs: number | null}} close
 * @param {{min: number, max: number}} backoff
 * @param {() => number} random
 * @returns {{reconnect: boolean, delay: number, hinted: boolean}}
 */
export function afterClose(close, backoff, random) {
  const foreign = close.code >= 3000 && close.code !== IDLE && close.goodbye?.reconnect !== true;
  if (FINAL_CLOSE_CODES.includes(close.code) || foreign || close.goodbye?.reconnect === false) {
    return { reconnect: false, delay: 0, hinted: false };
  }
  const asksPause = close.code === 1008 || close.code === 1013;
  const hint =
    close.goodbye?.reconnect_after_ms ?? close.goodbye?.retry_after_ms ?? (asksPause ? close.retryAfterMs : null);
  if (typeof hint === "number" && hint >= 0) {
    return { reconnect: true, delay: hint, hinted: true };
  }
  const delay = backoffDelay(close.attempt, backoff, random);
  const floor = asksPause ? Math.min(backoff.max, 4 * backoff.min) : 0;
  return { reconnect: true, delay: Math.max(delay, floor), hinted: false };
}

/**
 * A URL that may be shown or logged: token and session are masked.
 * @param {URL} url
 * @returns {string}
 */
function displayUrl(url) {
  const shown = new URL(url);
  for (const secret of ["token", "session"]) {
    if (shown.searchParams.has(secret)) shown.searchParams.set(secret, "***");
  }
  return shown.href;
}

/** The client's view of one channel: who listens, and up to where it has been seen. */
class Channel {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** @type {Set<Handlers>} */
    this.handlers = new Set();
    /** The server subscribes us by the endpoint itself; we never send subscribe or unsubscribe for it. */
    this.implicit = false;
    /** @type {Subscribed | null} the last ack on the current socket */
    this.subscribed = null;
    /** @type {Position | null} */
    this.position = null;
    /** @type {{left: number, head: number} | null} a recovery whose publications are still arriving */
    this.recovery = null;
  }

  /**
   * Apply the server's ack.
   *
   * During a recovery the position stays where it was: the ack may already name the head, and the missed publications
   * that follow would look like duplicates. The head is adopted once they have all arrived.
   * @param {Subscribed} ack
   * @param {boolean} asked whether we had asked for a recovery
   * @returns {Gap | null}
   */
  acknowledge(ack, asked) {
    const held = this.position;
    this.subscribed = ack;
    this.recovery = null;
    if (ack.recovered && ack.epoch !== null && (!held || held.epoch === ack.epoch)) {
      const head = Math.max(held?.offset ?? 0, ack.offset ?? 0);
      if (ack.replayed > 0) this.recovery = { left: ack.replayed, head };
      else this.position = { epoch: ack.epoch, offset: head };
      return null;
    }
    this.position = ack.epoch !== null && ack.offset !== null ? { epoch: ack.epoch, offset: ack.offset } : null;
    if (ack.recovered) return null;
    const gap = { channel: this.name, epoch: ack.epoch, after: held ? held.offset : null, before: null };
    if (ack.reason && (asked || ack.reason !== "no_history")) return { ...gap, reason: ack.reason };
    const moved = held && (held.epoch !== ack.epoch || held.offset < (ack.offset ?? 0));
    return moved || (asked && held) ? { ...gap, reason: "not_recovered" } : null;
  }

  /**
   * Take one step in the channel's order.
   * @param {string | null} epoch
   * @param {number | null} offset
   * @param {number | null | undefined} prev the offset before it in this channel
   * @returns {{fresh: boolean, gap: Gap | null}} fresh is false for what has been seen already
   */
  advance(epoch, offset, prev) {
    if (epoch === null || offset === null) return { fresh: true, gap: null };
    const held = this.position;
    if (held && held.epoch === epoch && offset <= held.offset) return { fresh: false, gap: null };
    const gap = held ? { channel: this.name, epoch, after: held.offset, before: offset } : null;
    this.position = { epoch, offset };
    if (this.recovery && --this.recovery.left <= 0) {
      this.position.offset = Math.max(offset, this.recovery.head);
      this.recovery = null;
    }
    if (!held || !gap) return { fresh: true, gap: null };
    if (held.epoch !== epoch) {
      this.recovery = null;
      this.position.offset = offset;
      return { fresh: true, gap: { ...gap, reason: "epoch_changed" } };
    }
    if (typeof prev === "number" && prev > held.offset) return { fresh: true, gap: { ...gap, reason: "missed" } };
    return { fresh: true, gap: null };
  }

  /** @param {Gap} gap said by the server */
  skip(gap) {
    if (gap.epoch === null || gap.before === null) return;
    const last = gap.before - 1;
    const held = this.position;
    if (!held || held.epoch !== gap.epoch) this.position = { epoch: gap.epoch, offset: last };
    else if (held.offset < last) this.position = { epoch: gap.epoch, offset: last };
  }
}

/** One listener's hold on a channel; made by `subscribe` and `listen`. */
export class Subscription {
  /** @type {() => void} */
  #leave;
  /** @type {() => Position | null} */
  #position;

  /**
   * @param {string} channel
   * @param {() => void} leave
   * @param {() => Position | null} position
   */
  constructor(channel, leave, position) {
    this.channel = channel;
    this.#leave = leave;
    this.#position = position;
  }

  /** Up to where the channel has been seen; null before the ack and in a channel without history. */
  get position() {
    return this.#position();
  }

  /** Stop these callbacks. The server is told when no other callback listens to the channel. */
  unsubscribe() {
    this.#leave();
  }
}

/** A connection that comes back. Made by `connect`. */
export class Connection {
  /** @type {URL} */ #base;
  /** @type {Options} */ #options;
  /** @type {{min: number, max: number}} */ #backoff;
  /** @type {() => number} */ #random;
  /** @type {Timers} */ #timers;
  /** @type {State} */ #state = "connecting";
  /** @type {WebSocket | null} */ #socket = null;
  /** Counts sockets; a callback of an older one finds another number and does nothing. */
  #generation = 0;
  /** Attempts since the last connection that stayed. */
  #attempt = 0;
  #retryHinted = false;
  /** @type {any} */ #retryTimer = null;
  /** @type {any} */ #connectTimer = null;
  /** @type {any} */ #stableTimer = null;
  /** @type {any} */ #silenceTimer = null;
  #lastHeard = 0;
  /** @type {Message | null} */ #established = null;
  /** @type {string | null} */ #session = null;
  /** @type {Message | null} */ #goodbye = null;
  /** The last pause an error asked for, and when. @type {{ms: number, at: number} | null} */ #pause = null;
  /** Implicit channel whose position the socket's URL carried. @type {string | null} */ #askedByUrl = null;
  /** @type {Map<string, Channel>} */ #channels = new Map();
  /** Channels to subscribe together at the end of this task. @type {Set<string>} */ #toSubscribe = new Set();
  /** @type {Map<string | number, Pending>} */ #pending = new Map();
  /** @type {Map<string, Set<(event: any) => void>>} */ #listeners = new Map();
  #lastId = 0;

  /**
   * @param {string | URL} url
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    const base = new URL(url, globalThis.location?.href);
    if (base.protocol === "http:") base.protocol = "ws:";
    if (base.protocol === "https:") base.protocol = "wss:";
    if (base.protocol !== "ws:" && base.protocol !== "wss:") {
      throw new TypeError(`url has the scheme ${base.protocol} but must be ws:, wss:, http:, https: or relative`);
    }
    base.hash = "";
    this.#base = base;
    this.#options = options;
    this.#backoff = { min: options.backoff?.min ?? 500, max: options.backoff?.max ?? 30_000 };
    this.#random = options.random ?? Math.random;
    this.#timers = options.timers ?? {
      setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
      clearTimeout: (handle) => globalThis.clearTimeout(handle),
      now: () => performance.now(),
    };
    globalThis.addEventListener?.("online", this.#whenOnline);
    // One microtask later, so that listeners attached right after connect() see the first "connecting".
    queueMicrotask(() => {
      if (this.#state !== "connecting") return;
      this.#setState("connecting", "first attempt");
      void this.#open();
    });
  }

  /** `connecting`, `open`, `reconnecting` or `closed`. */
  get state() {
    return this.#state;
  }

  /** The URL for display: token and session are masked. */
  get url() {
    return displayUrl(this.#base);
  }

  /** The server's `connection_established` of the current or last connection: connection_id, node, limits and more. */
  get established() {
    return this.#established;
  }

  /**
   * Listen to a type of server message, to `"*"` (every server message, before the client acts on it), to `"state"`
   * (a StateChange) or to `"sent"` (every message this client sends). The last two are the client's own: a server
   * message of such a type reaches only `"*"`.
   *
   * Publications seen here are raw: duplicates and replays included. `subscribe` gives them checked.
   * @param {string} type
   * @param {(event: any) => void} callback
   * @returns {() => void} stops listening
   */
  on(type, callback) {
    let callbacks = this.#listeners.get(type);
    if (!callbacks) this.#listeners.set(type, (callbacks = new Set()));
    callbacks.add(callback);
    return () => void callbacks.delete(callback);
  }

  /**
   * Subscribe to a channel, now and after every reconnect. May be called in any state but `closed`, and several times
   * for one channel; the server is asked once.
   * @param {string} channel
   * @param {Handlers} [handlers]
   * @param {{recover?: Position | null, implicit?: boolean}} [options] recover: a position kept from an earlier
   *   page, to go on from there; implicit: see `listen`
   * @returns {Subscription}
   */
  subscribe(channel, handlers = {}, options = {}) {
    if (this.#state === "closed") throw new TrunklineError("CLOSED", `cannot subscribe to ${channel}: closed`, false);
    let entry = this.#channels.get(channel);
    if (!entry) {
      entry = new Channel(channel);
      entry.implicit = options.implicit ?? false;
      entry.position = options.recover ?? null;
      this.#channels.set(channel, entry);
      if (!entry.implicit) this.#subscribeSoon([channel]);
    } else if (entry.subscribed) {
      queueMicrotask(() => {
        const ack = entry?.subscribed;
        if (ack && entry?.handlers.has(own)) this.#call(own.onSubscribed, ack);
      });
    }
    const held = entry;
    const own = { ...handlers };
    held.handlers.add(own);
    return new Subscription(
      channel,
      () => this.#leave(held, own),
      () => (held.position ? { ...held.position } : null),
    );
  }

  /**
   * Listen to a channel that the endpoint subscribes by itself (`chat.<room>`, `match.<id>`): like `subscribe`, but the
   * server is never asked.
   * @param {string} channel
   * @param {Handlers} handlers
   * @returns {Subscription}
   */
  listen(channel, handlers) {
    return this.subscribe(channel, handlers, { implicit: true });
  }

  /**
   * Publish to a channel.
   *
   * Never queued: when the connection is not open this rejects at once with `NOT_OPEN` (temporary), and when it is lost
   * before the ack, with `DISCONNECTED` (temporary, outcome unknown). A caller that then tries again may publish twice.
   * @param {string} channel
   * @param {unknown} data anything JSON can carry
   * @returns {Promise<Message>} the `publish_ack`
   */
  publish(channel, data) {
    return this.request({ type: "publish", channel, data: data === undefined ? null : data });
  }

  /**
   * Ask for past publications of a channel. They go to the result (and to `onPublication` of the range) only, not to
   * the subscription's callbacks, unless they are new to it.
   * @param {string} channel
   * @param {{from: number, to: number, since?: undefined, epoch?: string,
   *     onPublication?: (data: any, publication: Publication) => void}
   *   | {since: number, from?: undefined, to?: undefined, epoch?: string,
   *     onPublication?: (data: any, publication: Publication) => void}} range from and to are inclusive; since means
   *   after this offset. The epoch is the known position's unless given.
   * @returns {Promise<{complete: boolean, publications: Publication[], answer: Message}>} complete is false when the
   *   server no longer has all of it; `answer` then says what is missing and why
   */
  async replay(channel, range) {
    const epoch = range.epoch ?? this.#channels.get(channel)?.position?.epoch ?? null;
    const bounds = range.since !== undefined ? { since: range.since } : { from: range.from, to: range.to };
    /** @type {Replay} */
    const replay = {
      channel,
      epoch,
      from: range.since !== undefined ? range.since + 1 : range.from,
      to: range.since !== undefined ? Infinity : range.to,
      seen: new Set(),
      publications: [],
      onPublication: range.onPublication,
    };
    const answer = await this.#ask(
      { type: "replay", id: this.#newId(), channel, ...(epoch === null ? {} : { epoch }), ...bounds },
      { replay },
    );
    return { complete: answer.type === "replay_complete", publications: replay.publications, answer };
  }

  /**
   * Send a message of any type. With an `id` the promise settles with the server's answer; without one it resolves as
   * soon as the message is handed to the socket. Never queued: see `publish`.
   * @param {Message} message
   * @returns {Promise<Message | undefined>}
   */
  async send(message) {
    if (message.id !== undefined) return this.#ask(message, {});
    this.#transmit(message);
    return undefined;
  }

  /**
   * Send a message with an id of the client's choice and wait for the answer.
   * @param {Message} message
   * @returns {Promise<Message>}
   */
  request(message) {
    return this.#ask({ ...message, id: this.#newId() }, {});
  }

  /** Drop the current socket and reconnect at once; positions are kept. For example after a new login. */
  reconnect() {
    if (this.#state === "closed") return;
    this.#dropSocket();
    this.#forgetConnection(new TrunklineError("DISCONNECTED", "reconnecting on request; outcome unknown", true));
    this.#setState("reconnecting", "on request", { retryInMs: 0 });
    void this.#open();
  }

  /** Close, with no reconnect. Outstanding requests reject; a new `connect` is needed to come back. */
  close() {
    if (this.#state === "closed") return;
    this.#dropSocket(1000);
    this.#finish("closed by this page", 1000);
  }

  // --- coming and going ---------------------------------------------------------------------------------------------

  /** Start one attempt. */
  async #open() {
    if (this.#state === "closed") return; // by a listener of the state event just before
    const generation = ++this.#generation;
    const current = () => generation === this.#generation && this.#state !== "closed";
    this.#cancelTimers();
    // Armed before the token is fetched: a token function that never settles must not stall the connection for ever.
    const limit = this.#options.connectTimeoutMs ?? 15_000;
    this.#connectTimer = this.#timers.setTimeout(() => {
      if (!current()) return;
      this.#dropSocket();
      this.#lost(1006, `not established within ${limit} ms`);
    }, limit);
    /** @type {string | null | undefined} */
    let token;
    try {
      const source = this.#options.token;
      token = typeof source === "function" ? await source() : source;
    } catch (error) {
      if (!current()) return;
      this.#report(error);
      this.#lost(1006, "the token function failed");
      return;
    }
    if (!current()) return;
    const inQuery = this.#options.tokenIn === "query";
    const url = this.#attemptUrl(inQuery ? token : null);
    const make = this.#options.WebSocket ?? globalThis.WebSocket;
    /** @type {WebSocket} */
    let socket;
    try {
      // Without a token no subprotocol is offered: a server that does not choose one would fail the handshake.
      socket = token && !inQuery ? new make(url, ["trunkline", `bearer.${token}`]) : new make(url);
    } catch (error) {
      // A blocked URL or a token that cannot be a subprotocol: the next attempt would throw the same. The engine's text
      // may quote the token, so only the error's name is shown.
      this.#finish(`the browser refused to connect (${error instanceof Error ? error.name : "unknown"})`, null);
      return;
    }
    this.#socket = socket;
    socket.onmessage = (event) => {
      if (!current()) return;
      this.#lastHeard = this.#timers.now();
      if (typeof event.data === "string") this.#parse(event.data);
    };
    socket.onclose = (event) => {
      if (current()) this.#lost(event.code, event.reason);
    };
  }

  /**
   * The URL of the next attempt: the session, and the position of the implicit channel so that the server recovers it.
   * @param {string | null | undefined} token
   */
  #attemptUrl(token) {
    const url = new URL(this.#base);
    if (token) url.searchParams.set("token", token);
    if (this.#session) url.searchParams.set("session", this.#session);
    this.#askedByUrl = null;
    for (const channel of this.#channels.values()) {
      // One endpoint has one implicit channel; should there be more, the others report a gap if they moved on.
      if (!channel.implicit || !channel.position) continue;
      url.searchParams.set("epoch", channel.position.epoch);
      url.searchParams.set("offset", String(channel.position.offset));
      this.#askedByUrl = channel.name;
      break;
    }
    return url.href;
  }

  /** @param {Message} message */
  #opened(message) {
    this.#timers.clearTimeout(this.#connectTimer);
    this.#established = message;
    if (typeof message.session === "string") this.#session = message.session;
    // Not reset at once: a server that accepts and then fails each connection would be hammered at the minimum.
    this.#stableTimer = this.#timers.setTimeout(() => (this.#attempt = 0), this.#options.stableAfterMs ?? 5000);
    const interval = message.heartbeat_interval_ms;
    if (typeof interval === "number" && interval > 0) this.#watchSilence(interval * SILENT_INTERVALS);
    this.#setState("open", message.resumed ? "session resumed" : "established");
    // A listener of that event may have closed or reconnected.
    if (this.#state !== "open") return;
    this.#toSubscribe.clear();
    this.#subscribeNow([...this.#channels.values()].filter((channel) => !channel.implicit).map(({ name }) => name), 0);
  }

  /**
   * Find half-open connections. The timer is set again only when it fires; arriving messages just note the time.
   * @param {number} limit milliseconds
   */
  #watchSilence(limit) {
    const wait = Math.max(0, this.#lastHeard + limit - this.#timers.now());
    this.#silenceTimer = this.#timers.setTimeout(() => {
      if (this.#timers.now() - this.#lastHeard < limit) {
        this.#watchSilence(limit);
        return;
      }
      this.#dropSocket();
      this.#lost(1006, `nothing heard for ${Math.round(limit)} ms`);
    }, wait);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #lost(code, reason) {
    const goodbye = this.#goodbye;
    const recent = this.#pause && this.#timers.now() - this.#pause.at < PAUSE_VALID_MS;
    const retryAfterMs = recent && this.#pause ? this.#pause.ms : null;
    const plan = afterClose({ code, attempt: this.#attempt, goodbye, retryAfterMs }, this.#backoff, this.#random);
    const said = goodbye?.reason || reason;
    const detail = said ? `${said} (${code})` : code === 1006 ? "unreachable or refused (1006)" : `closed with ${code}`;
    if (!plan.reconnect) {
      this.#finish(detail, code);
      return;
    }
    this.#attempt += 1;
    this.#retryHinted = plan.hinted;
    this.#forgetConnection(
      new TrunklineError("DISCONNECTED", "connection lost before the answer; outcome unknown", true),
    );
    this.#retryTimer = this.#timers.setTimeout(() => this.#retry(), plan.delay);
    this.#setState("reconnecting", detail, { retryInMs: Math.round(plan.delay), code });
  }

  #retry() {
    this.#retryTimer = null;
    this.#setState("reconnecting", "trying");
    void this.#open();
  }

  /** The network is back: the rest of a back-off is pointless. A pause the server asked for still holds. */
  #whenOnline = () => {
    if (this.#retryTimer === null || this.#retryHinted) return;
    this.#timers.clearTimeout(this.#retryTimer);
    this.#retry();
  };

  /**
   * @param {string} detail
   * @param {number | null} code
   */
  #finish(detail, code) {
    this.#forgetConnection(new TrunklineError("CLOSED", `connection closed: ${detail}`, false));
    globalThis.removeEventListener?.("online", this.#whenOnline);
    this.#setState("closed", detail, { code });
  }

  /**
   * Give the socket up without waiting for its close event, which a half-open connection delivers minutes later.
   * @param {number} [code]
   */
  #dropSocket(code) {
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    if (code === undefined) socket.close();
    else socket.close(code);
  }

  /**
   * Forget what belonged to one socket: timers, hints, acks, outstanding requests.
   * @param {TrunklineError} error what outstanding requests reject with
   */
  #forgetConnection(error) {
    this.#generation += 1;
    this.#socket = null;
    this.#goodbye = null;
    this.#pause = null;
    this.#cancelTimers();
    for (const channel of this.#channels.values()) {
      channel.subscribed = null;
      channel.recovery = null;
    }
    const outstanding = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of outstanding) {
      this.#timers.clearTimeout(request.timer);
      request.reject(error);
    }
  }

  #cancelTimers() {
    for (const timer of [this.#retryTimer, this.#connectTimer, this.#stableTimer, this.#silenceTimer]) {
      this.#timers.clearTimeout(timer);
    }
    this.#retryTimer = this.#connectTimer = this.#stableTimer = this.#silenceTimer = null;
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  /** @param {string} text */
  #parse(text) {
    /** @type {any} */
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      message = null;
    }
    if (typeof message?.type !== "string") {
      this.#report(new Error(`ignored a message of ${text.length} characters that is no JSON object with a type`));
      return;
    }
    this.#emit("*", message);
    this.#act(message);
    if (message.type !== "state" && message.type !== "sent" && message.type !== "*") this.#emit(message.type, message);
  }

  /** @param {Message} message */
  #act(message) {
    switch (message.type) {
      case "connection_established":
        this.#opened(message);
        break;
      case "heartbeat":
        if (this.#state === "open" && this.#socket?.readyState === 1) this.#transmit({ type: "heartbeat" });
        break;
      case "goodbye":
        this.#goodbye = message;
        break;
      case "error":
        if (typeof message.retry_after_ms === "number") {
          this.#pause = { ms: message.retry_after_ms, at: this.#timers.now() };
        }
        break;
      case "subscription_ack":
        this.#acknowledged(message);
        break;
      case "publication":
        this.#published(/** @type {Publication} */ (message));
        break;
      case "publish_ack":
        // With `prev` the ack stands in the channel's order in place of our own publication.
        if (message.prev !== undefined && message.prev !== null) this.#advance(message);
        break;
      case "gap": {
        const { channel, epoch = null, after = null, before = null, reason } = message;
        const gap = { channel, epoch, after, before, reason };
        this.#channels.get(channel)?.skip(gap);
        this.#tell(channel, "onGap", gap);
        break;
      }
    }
    this.#settle(message);
  }

  /** @param {Message} message */
  #settle(message) {
    const request = message.id === undefined || message.id === null ? undefined : this.#pending.get(message.id);
    if (!request || message.id === undefined) return;
    this.#pending.delete(message.id);
    this.#timers.clearTimeout(request.timer);
    if (message.type === "error") {
      const { code, message: text, temporary, retry_after_ms: retryAfterMs } = message;
      request.reject(new TrunklineError(code, text, temporary === true, retryAfterMs ?? null));
    } else request.resolve(message);
  }

  /** @param {Message} message a subscription_ack */
  #acknowledged(message) {
    const unasked = message.id === undefined || message.id === null;
    const request = unasked ? undefined : this.#pending.get(message.id ?? "");
    for (const name of message.subscribed ?? []) {
      let channel = this.#channels.get(name);
      if (unasked) {
        // Unasked: the endpoint itself subscribes us, and will do so after a reconnect.
        if (!channel) this.#channels.set(name, (channel = new Channel(name)));
        channel.implicit = true;
      }
      if (!channel) continue; // unsubscribed meanwhile
      const { epoch = null, offset = null, recovered = false, replayed = 0, reason } = message.positions?.[name] ?? {};
      const ack = { channel: name, epoch, offset, recovered, replayed, ...(reason ? { reason } : {}) };
      const asked = unasked ? this.#askedByUrl === name : request?.asked?.[name] !== undefined;
      const gap = channel.acknowledge(ack, asked);
      this.#tell(name, "onSubscribed", ack);
      if (gap) this.#tell(name, "onGap", gap);
    }
  }

  /** @param {Publication} publication */
  #published(publication) {
    const { channel, offset, epoch } = publication;
    const fresh = this.#advance(publication);
    for (const { replay } of this.#pending.values()) {
      if (!replay || replay.channel !== channel || offset === null || replay.seen.has(offset)) continue;
      if (offset < replay.from || offset > replay.to || (replay.epoch !== null && replay.epoch !== epoch)) continue;
      replay.seen.add(offset);
      replay.publications.push(publication);
      this.#call(replay.onPublication, publication.data, publication);
    }
    if (fresh) this.#tell(channel, "onPublication", publication.data, publication);
  }

  /**
   * @param {Message | Publication} step
   * @returns {boolean} whether it is new in a channel we follow
   */
  #advance(step) {
    const channel = this.#channels.get(step.channel);
    if (!channel) return false;
    const { fresh, gap } = channel.advance(step.epoch ?? null, step.offset ?? null, step.prev);
    if (gap) this.#tell(channel.name, "onGap", gap);
    return fresh;
  }

  // --- subscribing --------------------------------------------------------------------------------------------------

  /** @param {string[]} names */
  #subscribeSoon(names) {
    if (this.#toSubscribe.size === 0) {
      queueMicrotask(() => {
        const due = [...this.#toSubscribe];
        this.#toSubscribe.clear();
        this.#subscribeNow(due, 0);
      });
    }
    for (const name of names) this.#toSubscribe.add(name);
  }

  /**
   * One subscribe message for all these channels; more only when it would exceed the server's message limit.
   * @param {string[]} names
   * @param {number} tries how often these were refused for a time
   */
  #subscribeNow(names, tries) {
    const channels = names.filter((name) => this.#channels.get(name)?.implicit === false);
    if (this.#state !== "open" || channels.length === 0) return;
    /** @type {Record<string, Position>} */
    const recover = {};
    for (const name of channels) {
      const position = this.#channels.get(name)?.position;
      if (position) recover[name] = { ...position };
    }
    const known = Object.keys(recover).length > 0;
    const message = { type: "subscribe", id: this.#newId(), channels, ...(known ? { recover } : {}) };
    if (channels.length > 1 && this.#tooBig(JSON.stringify(message))) {
      const half = channels.length >> 1;
      this.#subscribeNow(channels.slice(0, half), tries);
      this.#subscribeNow(channels.slice(half), tries);
      return;
    }
    this.#ask(message, { asked: recover }).catch((error) => this.#refused(channels, error, tries));
  }

  /**
   * @param {string[]} names
   * @param {TrunklineError} error
   * @param {number} tries
   */
  #refused(names, error, tries) {
    if (["NOT_OPEN", "DISCONNECTED", "CLOSED"].includes(error.code)) return; // the next connection subscribes to all again
    if (error.temporary) {
      const generation = this.#generation;
      const delay = error.retryAfterMs ?? this.#backoff.min + backoffDelay(tries, this.#backoff, this.#random);
      this.#timers.setTimeout(() => {
        if (generation === this.#generation) this.#subscribeNow(names, tries + 1);
      }, delay);
    } else if (names.length > 1) {
      // One bad channel must not cost the others: ask one by one and see which it is.
      for (const name of names) this.#subscribeNow([name], 0);
    } else this.#tell(names[0], "onError", error);
  }

  /**
   * @param {Channel} channel
   * @param {Handlers} own
   */
  #leave(channel, own) {
    if (!channel.handlers.delete(own) || channel.handlers.size > 0 || channel.implicit) return;
    this.#channels.delete(channel.name);
    const sent = !this.#toSubscribe.delete(channel.name);
    if (!sent || this.#state !== "open") return;
    this.request({ type: "unsubscribe", channels: [channel.name] }).catch(() => {
      // Refused means that the server holds no subscription, lost means the same: nothing is left to do.
    });
  }

  // --- sending ------------------------------------------------------------------------------------------------------

  #newId() {
    return `c${++this.#lastId}`;
  }

  /** @param {string} text */
  #tooBig(text) {
    const limit = this.#established?.limits?.message_bytes;
    if (typeof limit !== "number" || text.length * 3 <= limit) return false;
    return new TextEncoder().encode(text).length > limit;
  }

  /**
   * Hand a message to the socket or throw.
   * @param {Message} message
   */
  #transmit(message) {
    if (this.#state === "closed") throw new TrunklineError("CLOSED", `cannot send ${message.type}: closed`, false);
    if (this.#state !== "open" || this.#socket?.readyState !== 1) {
      throw new TrunklineError("NOT_OPEN", `cannot send ${message.type} while ${this.#state}: nothing was sent`, true);
    }
    const text = JSON.stringify(message);
    // Sending it would end the connection with 1009.
    if (this.#tooBig(text)) {
      const limit = this.#established?.limits?.message_bytes;
      throw new TrunklineError("TOO_BIG", `${message.type} is larger than the server's limit of ${limit} bytes`, false);
    }
    this.#socket.send(text);
    this.#emit("sent", message);
  }

  /**
   * @param {Message} message with an id
   * @param {{asked?: Record<string, Position>, replay?: Replay}} extra
   * @returns {Promise<Message>}
   */
  #ask(message, extra) {
    return new Promise((resolve, reject) => {
      const id = message.id;
      if (id === undefined || this.#pending.has(id)) {
        reject(new TypeError(`the id ${id} belongs to a request that is still waiting; choose another`));
        return;
      }
      this.#transmit(message); // a throw in here rejects the promise
      const limit = this.#options.requestTimeoutMs ?? 30_000;
      const timer = this.#timers.setTimeout(() => {
        this.#pending.delete(id);
        reject(new TrunklineError("TIMEOUT", `no answer to ${message.type} within ${limit} ms; outcome unknown`, true));
      }, limit);
      this.#pending.set(id, { resolve, reject, timer, ...extra });
    });
  }

  // --- callbacks ----------------------------------------------------------------------------------------------------

  /**
   * @param {State} state
   * @param {string} detail
   * @param {{retryInMs?: number | null, code?: number | null}} [more]
   */
  #setState(state, detail, { retryInMs = null, code = null } = {}) {
    this.#state = state;
    /** @type {StateChange} */
    const change = { state, url: this.url, detail, attempt: this.#attempt, retryInMs, code };
    this.#emit("state", change);
  }

  /**
   * @param {string} channel
   * @param {keyof Handlers} name
   * @param {...any} values
   */
  #tell(channel, name, ...values) {
    for (const handlers of [...(this.#channels.get(channel)?.handlers ?? [])]) this.#call(handlers[name], ...values);
  }

  /**
   * @param {string} type
   * @param {any} event
   */
  #emit(type, event) {
    for (const callback of [...(this.#listeners.get(type) ?? [])]) this.#call(callback, event);
  }

  /**
   * @param {((...values: any[]) => void) | undefined} callback
   * @param {...any} values
   */
  #call(callback, ...values) {
    if (!callback) return;
    try {
      callback(...values);
    } catch (error) {
      this.#report(error);
    }
  }

  /** @param {unknown} error */
  #report(error) {
    if (typeof globalThis.reportError === "function") globalThis.reportError(error);
    else console.error(error);
  }
}

/**
 * Connect to a Trunkline endpoint and stay connected.
 * @param {string | URL} url absolute, or relative to the page; http becomes ws and https becomes wss
 * @param {Options} [options]
 * @returns {Connection}
 */
export function connect(url, options = {}) {
  return new Connection(url, options);
}
