// @ts-check
/**
 * trunkline.js: the browser client of Trunkline. One ES module, nothing to install.
 *
 * Idea: the client knows its position `(epoch, offset)` in every channel, so after any reconnect it can ask for what it
 * missed, drop what it has already seen, and say so when something is gone. A loss is never silent.
 *
 * Rules:
 * - Nothing is kept for a later connection. While the connection is not open, `publish` and `send` reject as temporary.
 * - A connection comes back by itself until a close code or a `goodbye` says that it must not, or `close()` is called.
 * - No number from outside sets a timer unchecked: hints have a longest value, and a hint that did not help once is
 *   only the least of the next wait.
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
 * @property {(error: TrunklineError) => void} [onError] the server refused the subscription permanently, or ended it
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
 *   function that gives one. It is called before every attempt and when the server says that the token expires soon;
 *   when it fails it is called again later, unless the error has `temporary: false`, which closes the connection
 * @property {"subprotocol" | "query"} [tokenIn] where the token travels; "subprotocol" (default) keeps it out of URLs
 *   and so out of access logs, "query" is for peers that know no subprotocols
 * @property {{min?: number, max?: number}} [backoff] milliseconds; default 500 and 30000. Here and in the next three,
 *   what is not a number above 0 counts as not given
 * @property {number} [connectTimeoutMs] give an attempt up after this long; default 15000
 * @property {number} [requestTimeoutMs] reject an unanswered request after this long; default 30000
 * @property {number} [stableAfterMs] how long open until the back-off starts from its minimum again; default 5000
 * @property {new (url: string, protocols?: string[]) => WebSocket} [WebSocket] for tests
 * @property {() => number} [random] for tests; uniform in [0, 1)
 * @property {Timers} [timers] for tests
 */
/**
 * How a request is made: `asked` holds the positions a subscribe wanted recovered, `once` means that a refusal is not
 * repeated, `limit` is for the answer, in milliseconds; with `urgent` it does not wait for its place in the rate.
 * @typedef {{asked?: Record<string, Position>, replay?: Replay, once?: boolean, urgent?: boolean,
 *   limit?: number}} Manner
 */
/**
 * A request whose answer is outstanding. `later` sends it; until then `unsent` says why it is not under way.
 * @typedef {Manner & {message: Message, text: string, resolve: (answer: any) => void, reject: (error: unknown) => void,
 *   until: number, timer: any, later: any, unsent: TrunklineError | null, tries: number}} Pending
 */
/**
 * @typedef {{channel: string, epoch: string | null, from: number, to: number, seen: Set<number>,
 *   publications: Publication[], onPublication?: (data: any, publication: Publication) => void}} Replay
 */

/** Close codes of the protocol after which a new attempt would end the same way. */
export const FINAL_CLOSE_CODES = Object.freeze([1000, 1002, 1003, 1007, 1009, 4001, 4003]);

/** The codes of the private range (3000 to 4999) that the protocol lets come back: token expired, idle too long. */
const RETURNING = [4002, 4008];

/** The longest time-out there is: `setTimeout` takes 32 bits and fires at once above. */
const LONGEST_MS = 2 ** 31 - 1;

/** What a server may ask a client to wait; more is taken for this. */
const LONGEST_HINT_MS = 3_600_000;

/** How much later than we reckon the server may have room for a message. */
const RATE_SLACK_MS = 100;

/** A connection that may be dead must answer within this time. */
const PROBE_MS = 5000;

/** Silence of this many heartbeat intervals means that the connection is dead although nobody closed it. */
const SILENT_INTERVALS = 2.5;

/** An error's `retry_after_ms` explains a close only when the close follows within this time. */
const PAUSE_VALID_MS = 10_000;

/**
 * What a promise of this client rejects with.
 *
 * `code` is the server's error code, or one of the client's own: `NOT_OPEN` (nothing was sent), `TOO_BIG` (nothing was
 * sent), `DISCONNECTED` and `TIMEOUT` (it was sent; whether it took effect is unknown; the server says the latter too),
 * `CLOSED`.
 * `temporary` says whether the same call may succeed later. A token function throws one with `temporary` false when
 * there will be no more tokens.
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
 * @param {unknown} value a duration from outside, in milliseconds
 * @param {number} fallback for what is not a number above 0
 * @returns {number} one that a timer can hold
 */
function duration(value, fallback) {
  return typeof value === "number" && value > 0 ? Math.min(value, LONGEST_MS) : fallback;
}

/**
 * @param {unknown} value a server's hint, in milliseconds
 * @returns {number | null} null for what is none
 */
function hintOf(value) {
  return typeof value === "number" && value >= 0 ? Math.min(value, LONGEST_HINT_MS) : null;
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
 * When to send a request again that was refused for a time: the first time as the server says, then by the larger of
 * its hint and the back-off, for a hint that is wrong would be obeyed for ever.
 * @param {number} tries how often it was sent again already
 * @param {number | null} hint the server's, in milliseconds
 * @param {{min: number, max: number}} backoff milliseconds
 * @param {() => number} random
 * @returns {number} milliseconds
 */
export function repeatDelay(tries, hint, backoff, random) {
  return Math.max(hintOf(hint) ?? backoff.min, tries > 0 ? backoffDelay(tries - 1, backoff, random) : 0);
}

/**
 * Decide what follows a close.
 *
 * A `goodbye` is the server's own plan and replaces the back-off, for one attempt and only after a connection that
 * stayed (`attempt` 0); else the larger of both counts. `retryAfterMs`, from an `error`, does so only for the two codes
 * that promise a pause (1008, 1013): with others it spoke of one message. Without a hint these two wait at least four
 * times the minimum. An application's own code (3000 and above) is final unless its goodbye says otherwise.
 * @param {{code: number, attempt: number, goodbye: Message | null, retryAfterMs: number | null}} close
 * @param {{min: number, max: number}} backoff
 * @param {() => number} random
 * @returns {{reconnect: boolean, delay: number, pause: number}} pause: how much of the delay the server asked for
 */
export function afterClose(close, backoff, random) {
  const foreign = close.code >= 3000 && !RETURNING.includes(close.code) && close.goodbye?.reconnect !== true;
  if (FINAL_CLOSE_CODES.includes(close.code) || foreign || close.goodbye?.reconnect === false) {
    return { reconnect: false, delay: 0, pause: 0 };
  }
  const asksPause = close.code === 1008 || close.code === 1013;
  const hint = hintOf(
    close.goodbye?.reconnect_after_ms ?? close.goodbye?.retry_after_ms ?? (asksPause ? close.retryAfterMs : null),
  );
  if (hint !== null && close.attempt === 0) return { reconnect: true, delay: hint, pause: hint };
  const delay = backoffDelay(close.attempt, backoff, random);
  const floor = hint ?? (asksPause ? Math.min(backoff.max, 4 * backoff.min) : 0);
  return { reconnect: true, delay: Math.max(delay, floor), pause: hint ?? 0 };
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
  /** No attempt before this time, whatever the browser says. */
  #pausedUntil = 0;
  /** The page was left; nothing is tried until it is shown again. */
  #left = false;
  /** Ends the listening to the browser's events. */
  #events = new AbortController();
  /** Every timer that runs; none outlives the connection or the wait that it belongs to. @type {Set<any>} */
  #running = new Set();
  /** @type {any} */ #retryTimer = null;
  /** @type {any} */ #connectTimer = null;
  #lastHeard = 0;
  /** The generation that is being probed, or is getting a new token. */
  #probed = 0;
  #refreshed = 0;
  /** The newest token, and the one that the server took. @type {string | null | undefined} */ #token;
  /** @type {string | null | undefined} */ #accepted;
  /** When the server's message rate has room for a whole burst again. */
  #rateFree = 0;
  /** @type {Message | null} */ #established = null;
  /** @type {string | null} */ #session = null;
  /** @type {Message | null} */ #goodbye = null;
  /** The last pause an error asked for, and when. @type {{ms: number, at: number} | null} */ #pause = null;
  /** Implicit channel whose position the socket's URL carried. @type {string | null} */ #askedByUrl = null;
  /** @type {Map<string, Channel>} */ #channels = new Map();
  /** Channels to unsubscribe, and to subscribe, together at the end of this task. */
  #due = { unsubscribe: /** @type {Set<string>} */ (new Set()), subscribe: /** @type {Set<string>} */ (new Set()) };
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
    this.#backoff = { min: duration(options.backoff?.min, 500), max: duration(options.backoff?.max, 30_000) };
    this.#random = options.random ?? Math.random;
    this.#timers = options.timers ?? {
      setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
      clearTimeout: (handle) => globalThis.clearTimeout(handle),
      now: () => performance.now(),
    };
    this.#listenToBrowser();
    // One microtask later, so that listeners attached right after connect() see the first "connecting".
    queueMicrotask(() => {
      if (this.#state === "connecting" && this.#setState("connecting", "first attempt")) void this.#open();
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
      if (!entry.implicit) this.#changeSoon("subscribe", channel);
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
   * When the connection is not open this rejects at once with `NOT_OPEN` (temporary), and when it is lost
   * before the ack, with `DISCONNECTED` (temporary, outcome unknown). A caller that then tries again may publish twice.
   * Above the server's rate it waits for its place, and what the server refuses for a time is sent again, both within
   * `requestTimeoutMs`. A publication that is sent again may come after later ones: await the ack where order matters.
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
   * Send a message of any type. With an `id` it is a request as `publish` is, and the promise settles with the server's
   * answer; without one it is sent at once, and the promise resolves.
   * @param {Message} message
   * @returns {Promise<Message | undefined>}
   */
  async send(message) {
    if (message.id !== undefined) return this.#ask(message);
    const text = this.#encode(message);
    const { wait, after } = this.#place();
    // Without a place the server refuses it, and takes nothing off the rate.
    if (wait <= 0) this.#rateFree = after;
    this.#transmit(message, text);
    return undefined;
  }

  /**
   * Send a message with an id of the client's choice and wait for the answer.
   * @param {Message} message
   * @returns {Promise<Message>}
   */
  request(message) {
    return this.#ask({ ...message, id: this.#newId() });
  }

  /** Drop the current socket and reconnect at once; positions are kept. For example after a new login. */
  reconnect() {
    if (this.#state !== "closed" && this.#drop("on request", 0)) void this.#open();
  }

  /** Close, with no reconnect. Outstanding requests reject; a new `connect` is needed to come back. */
  close() {
    if (this.#state === "closed") return;
    this.#finish("closed by this page", 1000);
  }

  // --- coming and going ---------------------------------------------------------------------------------------------

  /** Start one attempt. */
  async #open() {
    const generation = ++this.#generation;
    const current = () => generation === this.#generation;
    this.#left = false;
    // Armed before the token is fetched: a token function that never settles must not stall the connection for ever.
    const limit = duration(this.#options.connectTimeoutMs, 15_000);
    this.#connectTimer = this.#after(limit, () => {
      if (current()) this.#lost(1006, `not established within ${limit} ms`);
    });
    /** @type {string | null | undefined} */
    let token;
    try {
      const source = this.#options.token;
      token = typeof source === "function" ? await source() : source;
    } catch (error) {
      if (current() && !this.#endedByToken(error)) this.#lost(1006, "the token function failed");
      return;
    }
    if (!current()) return;
    this.#token = token;
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
    this.#cancel(this.#connectTimer);
    this.#established = message;
    if (typeof message.session === "string") this.#session = message.session;
    this.#rateFree = this.#pausedUntil = 0;
    this.#accepted = this.#token;
    // Not reset at once: a server that accepts and then fails each connection would be hammered at the minimum.
    this.#after(duration(this.#options.stableAfterMs, 5000), () => (this.#attempt = 0));
    const silence = duration(message.heartbeat_interval_ms * SILENT_INTERVALS, 0);
    if (silence > 0) this.#watchSilence(Math.max(silence, 1000));
    if (!this.#setState("open", message.resumed ? "session resumed" : "established")) return;
    this.#due.unsubscribe.clear();
    this.#due.subscribe.clear();
    this.#change("subscribe", [...this.#channels.keys()], 0);
  }

  /**
   * Find half-open connections. The timer is set again only when it fires; arriving messages just note the time.
   * @param {number} limit milliseconds
   */
  #watchSilence(limit) {
    this.#after(this.#lastHeard + limit - this.#timers.now(), () => {
      if (this.#timers.now() - this.#lastHeard < limit) this.#watchSilence(limit);
      else this.#lost(1006, `nothing heard for ${Math.round(limit)} ms`);
    });
  }

  /** What the browser knows of the network and of the page decides when to look, instead of the next timer. */
  #listenToBrowser() {
    const { document, navigator } = globalThis;
    /** @type {[any, string, () => void][]} */
    const table = [
      [globalThis, "online", () => this.#wake()],
      [globalThis, "offline", () => this.#probe()],
      [/** @type {any} */ (navigator)?.connection, "change", () => this.#probe()],
      [document, "resume", () => this.#wake()], // after the browser had stopped all of the page
      [document, "visibilitychange", () => document.visibilityState === "visible" && this.#wake()],
      [globalThis, "pagehide", () => this.#leavePage()],
      [globalThis, "pageshow", () => this.#left && this.#wake()],
    ];
    for (const [target, type, act] of table) target?.addEventListener?.(type, act, { signal: this.#events.signal });
  }

  /** The network may be back: the rest of a back-off is pointless. A pause the server asked for still holds. */
  #wake() {
    if (this.#retryTimer === null && !this.#left) this.#probe();
    else this.#retryAfter(this.#pausedUntil - this.#timers.now());
  }

  /** An open socket may be dead and will not say so: ask for an answer. Anything heard late enough is one too. */
  #probe() {
    const generation = this.#generation;
    if (this.#state !== "open" || this.#probed === generation) return;
    this.#probed = generation;
    const asked = this.#timers.now();
    this.#ask({ type: "heartbeat", id: this.#newId() }, { once: true, urgent: true, limit: PROBE_MS }).then(
      () => (this.#probed = 0),
      (error) => {
        if (generation !== this.#generation) return;
        this.#probed = 0;
        // What comes at once was on its way before; a slow connection brings the answer behind other messages.
        if (error.code !== "TIMEOUT" || this.#lastHeard > asked + PROBE_MS / 5) return;
        this.#lost(1006, `no answer to a probe within ${PROBE_MS} ms`);
      },
    );
  }

  /** A page with an open socket is not kept for the way back. */
  #leavePage() {
    this.#left = true;
    this.#drop("the page was left");
  }

  /**
   * Give a connection up that may be fine.
   * @param {string} detail
   * @param {number | null} [retryInMs]
   * @returns {boolean} as `#setState`
   */
  #drop(detail, retryInMs = null) {
    this.#forgetConnection(new TrunklineError("DISCONNECTED", `${detail}; outcome unknown`, true));
    return this.#setState("reconnecting", detail, { retryInMs });
  }

  // --- tokens -------------------------------------------------------------------------------------------------------

  /**
   * Get a fresh token and send it, again and again with back-off until the server takes one. Should none come in time,
   * the server closes with 4002, and the next attempt asks for a token too.
   */
  async #refresh() {
    const source = this.#options.token;
    const generation = this.#generation;
    if (typeof source !== "function" || this.#refreshed === generation) return;
    this.#refreshed = generation;
    for (let tries = 0; generation === this.#generation; tries++) {
      let wait = backoffDelay(tries, this.#backoff, this.#random);
      /** @type {string | null | undefined} */
      let token;
      try {
        token = await source();
      } catch (error) {
        if (generation !== this.#generation || this.#endedByToken(error)) return;
      }
      if (generation !== this.#generation) return;
      // A function that keeps its token may give the old one until that has expired.
      if (token && token !== this.#accepted) {
        this.#token = token;
        const manner = { once: true, urgent: true };
        const refused = await this.#ask({ type: "refresh", id: this.#newId(), token }, manner).then(
          () => null,
          (error) => error,
        );
        const lost = generation !== this.#generation;
        if (!refused || lost) this.#accepted = token; // lost: the server may have taken it
        if (lost) return;
        if (refused) this.#report(refused);
        if (!refused?.temporary) break;
        wait = Math.max(wait, hintOf(refused.retryAfterMs) ?? 0);
      }
      await new Promise((resolve) => this.#after(wait, () => resolve(0)));
    }
    if (generation === this.#generation) this.#refreshed = 0;
  }

  /**
   * @param {any} error of the token function
   * @returns {boolean} whether that was the end
   */
  #endedByToken(error) {
    this.#report(error);
    if (error?.temporary !== false) return false;
    this.#finish("no token any more", 4001);
    return true;
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #lost(code, reason) {
    const goodbye = this.#goodbye;
    const recent = this.#pause && this.#timers.now() - this.#pause.at < PAUSE_VALID_MS;
    const retryAfterMs = recent && this.#pause ? this.#pause.ms : null;
    // A token that was accepted before is no fresh one: it has expired meanwhile, and the function may have kept it.
    const old = typeof this.#options.token === "function" && this.#token && this.#token === this.#accepted;
    const close =
      code === 4001 && old && this.#state !== "open" ? { code: 1006, goodbye: null } : { code, goodbye };
    const plan = afterClose({ ...close, attempt: this.#attempt, retryAfterMs }, this.#backoff, this.#random);
    const said = goodbye?.reason || reason;
    const detail = said ? `${said} (${code})` : code === 1006 ? "unreachable or refused (1006)" : `closed with ${code}`;
    if (!plan.reconnect) {
      this.#finish(detail, code);
      return;
    }
    this.#attempt += 1;
    this.#pausedUntil = this.#timers.now() + plan.pause;
    this.#forgetConnection(
      new TrunklineError("DISCONNECTED", "connection lost before the answer; outcome unknown", true),
    );
    this.#retryAfter(plan.delay);
    this.#setState("reconnecting", detail, { retryInMs: Math.round(plan.delay), code });
  }

  /** @param {number} ms */
  #retryAfter(ms) {
    this.#cancel(this.#retryTimer);
    this.#retryTimer = this.#after(ms, () => {
      this.#retryTimer = null;
      if (this.#setState("reconnecting", "trying")) void this.#open();
    });
  }

  /**
   * @param {string} detail
   * @param {number | null} code
   */
  #finish(detail, code) {
    this.#forgetConnection(new TrunklineError("CLOSED", `connection closed: ${detail}`, false), 1000);
    this.#events.abort();
    this.#setState("closed", detail, { code });
  }

  /**
   * Forget what belonged to one socket: itself, timers, hints, acks, outstanding requests. Its close event is not
   * waited for: a half-open connection delivers it minutes later.
   * @param {TrunklineError} error what outstanding requests reject with
   * @param {number} [code] to close with
   */
  #forgetConnection(error, code) {
    this.#generation += 1;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close(code);
    }
    this.#goodbye = null;
    this.#pause = null;
    for (const timer of this.#running) this.#cancel(timer);
    this.#retryTimer = null;
    for (const channel of this.#channels.values()) {
      channel.subscribed = null;
      channel.recovery = null;
    }
    for (const request of [...this.#pending.values()]) {
      this.#forgetRequest(request).reject(error.temporary ? (request.unsent ?? error) : error);
    }
  }


  /**
   * @param {number} ms of any size
   * @param {() => void} callback
   * @returns {any} a handle to clear
   */
  #after(ms, callback) {
    const fire = () => {
      this.#running.delete(timer);
      callback();
    };
    const timer = this.#timers.setTimeout(fire, Math.max(0, Math.min(ms, LONGEST_MS)));
    this.#running.add(timer);
    return timer;
  }

  /** @param {any} timer */
  #cancel(timer) {
    this.#timers.clearTimeout(timer);
    this.#running.delete(timer);
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
    const generation = this.#generation;
    this.#emit("*", message);
    if (generation !== this.#generation) return; // a listener closed or reconnected
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
        if (this.#state === "open" && this.#socket?.readyState === 1) void this.send({ type: "heartbeat" });
        break;
      case "goodbye":
        this.#goodbye = message;
        break;
      case "token_expiring":
        void this.#refresh();
        break;
      case "error":
        if (hintOf(message.retry_after_ms) !== null) {
          this.#pause = { ms: message.retry_after_ms, at: this.#timers.now() };
        }
        if (message.code === "RATE_LIMIT_EXCEEDED") this.#overRate(hintOf(message.retry_after_ms) ?? 0);
        break;
      case "subscription_ack":
        this.#acknowledged(message);
        break;
      case "publication":
        this.#published(/** @type {Publication} */ (message));
        break;
      case "unsubscribed": {
        const channel = this.#channels.get(message.channel);
        if (channel) channel.subscribed = null;
        this.#tell(message.channel, "onError", new TrunklineError(message.code, message.reason, false));
        break;
      }
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
    const { id, type, code, message: text, temporary, retry_after_ms: hint = null } = message;
    const request = id === undefined || id === null ? undefined : this.#pending.get(id);
    if (!request) return;
    if (type !== "error") {
      this.#forgetRequest(request).resolve(message);
      return;
    }
    const error = new TrunklineError(code, text, temporary === true, hint);
    if (error.temporary && code !== "TIMEOUT" && !request.once) {
      const wait = repeatDelay(request.tries, hint, this.#backoff, this.#random);
      request.tries += 1;
      this.#sendAfter(wait, request, error);
    } else this.#forgetRequest(request).reject(error);
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

  /**
   * @param {"subscribe" | "unsubscribe"} type
   * @param {string} name
   */
  #changeSoon(type, name) {
    const due = this.#due;
    if (due.unsubscribe.size + due.subscribe.size === 0) {
      queueMicrotask(() => {
        const [leaving, coming] = [[...due.unsubscribe], [...due.subscribe]];
        due.unsubscribe.clear();
        due.subscribe.clear();
        this.#change("unsubscribe", leaving, 0);
        this.#change("subscribe", coming, 0);
      });
    }
    due[type].add(name);
  }

  /**
   * One message for all these channels; more only when it would exceed the server's message limit.
   * @param {"subscribe" | "unsubscribe"} type
   * @param {string[]} names
   * @param {number} tries how often these were refused
   */
  #change(type, names, tries) {
    // Meanwhile some may have been left, or wanted again.
    const channels = names.filter((name) => {
      const channel = this.#channels.get(name);
      return type === "subscribe" ? channel?.implicit === false : tries === 0 || !channel;
    });
    if (this.#state !== "open" || channels.length === 0) return;
    /** @type {Record<string, Position>} */
    const recover = {};
    for (const name of channels) {
      const position = this.#channels.get(name)?.position;
      if (position && type === "subscribe") recover[name] = { ...position };
    }
    const known = Object.keys(recover).length > 0;
    const message = { type, id: this.#newId(), channels, ...(known ? { recover } : {}) };
    if (channels.length > 1 && this.#tooBig(JSON.stringify(message))) this.#halve(type, channels, tries);
    else {
      const generation = this.#generation;
      this.#ask(message, { asked: recover, once: true }).catch((error) => {
        // The next connection subscribes to all again.
        if (generation === this.#generation) this.#refused(type, channels, error, tries);
      });
    }
  }

  /**
   * @param {"subscribe" | "unsubscribe"} type
   * @param {string[]} names
   * @param {number} tries
   */
  #halve(type, names, tries) {
    const half = names.length >> 1;
    this.#change(type, names.slice(0, half), tries);
    this.#change(type, names.slice(half), tries);
  }

  /**
   * @param {"subscribe" | "unsubscribe"} type
   * @param {string[]} names
   * @param {TrunklineError} error
   * @param {number} tries
   */
  #refused(type, names, error, tries) {
    if (error.temporary) {
      const wait = repeatDelay(tries, error.retryAfterMs, this.#backoff, this.#random);
      this.#after(wait, () => this.#change(type, names, tries + 1));
    } else if (names.length > 1) {
      // One bad channel must not cost the others: find which it is.
      this.#halve(type, names, tries + 1);
    } else if (type === "subscribe") this.#tell(names[0], "onError", error);
  }

  /**
   * @param {Channel} channel
   * @param {Handlers} own
   */
  #leave(channel, own) {
    if (!channel.handlers.delete(own) || channel.handlers.size > 0 || channel.implicit) return;
    this.#channels.delete(channel.name);
    const sent = !this.#due.subscribe.delete(channel.name);
    if (sent && this.#state === "open") this.#changeSoon("unsubscribe", channel.name);
  }

  // --- sending ------------------------------------------------------------------------------------------------------

  #newId() {
    return `c${++this.#lastId}`;
  }

  /**
   * The next place in the server's message rate, of which the first `rate_burst` are there at once.
   * @returns {{wait: number, after: number, step: number}} milliseconds until it is there; what `#rateFree` is when it
   *   is taken; milliseconds between two
   */
  #place() {
    const { rate_per_s: rate, rate_burst: burst } = this.#established?.limits ?? {};
    if (!(rate > 0 && burst > 0)) return { wait: 0, after: 0, step: 0 };
    const [now, step] = [this.#timers.now(), 1000 / rate];
    const after = Math.max(this.#rateFree, now) + step;
    const wait = after - now - burst * step;
    // The first that waits, and so all behind it, waits longer: the server saw the burst later than we sent it.
    const slack = wait > 0 && wait <= step ? RATE_SLACK_MS : 0;
    return { wait: wait + slack, after: after + slack, step };
  }

  /**
   * The server counts otherwise than we do: there is no place before `hint` milliseconds. A longer hint than its rate
   * explains is an application's, about one kind of request; it must not hold up the others.
   * @param {number} hint
   */
  #overRate(hint) {
    const { wait, step } = this.#place();
    const short = Math.max(0, Math.min(hint, Math.max(step, 1000)) - wait);
    this.#rateFree = Math.max(this.#rateFree, this.#timers.now()) + short;
  }

  /** @param {string} text */
  #tooBig(text) {
    const limit = this.#established?.limits?.message_bytes;
    if (typeof limit !== "number" || text.length * 3 <= limit) return false;
    return new TextEncoder().encode(text).length > limit;
  }

  /**
   * The text of a message that can be sent now; throws else.
   * @param {Message} message
   */
  #encode(message) {
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
    return text;
  }

  /**
   * @param {Message} message
   * @param {string} text
   */
  #transmit(message, text) {
    this.#socket?.send(text);
    this.#emit("sent", message.type === "refresh" ? { ...message, token: "***" } : message);
  }

  /**
   * Send a message with an id, again when it is refused for a time, and wait for the answer.
   * @param {Message} message
   * @param {Manner} [manner]
   * @returns {Promise<Message>}
   */
  #ask(message, manner = {}) {
    return new Promise((resolve, reject) => {
      const id = message.id;
      if (id === undefined || this.#pending.has(id)) {
        reject(new TypeError(`the id ${id} belongs to a request that is still waiting; choose another`));
        return;
      }
      const text = this.#encode(message); // a throw in here rejects the promise
      const limit = manner.limit ?? duration(this.#options.requestTimeoutMs, 30_000);
      const timer = this.#after(limit, () => {
        const late = `no answer to ${message.type} within ${limit} ms; outcome unknown`;
        this.#forgetRequest(request).reject(request.unsent ?? new TrunklineError("TIMEOUT", late, true));
      });
      const until = this.#timers.now() + limit;
      /** @type {Pending} */
      const request = { ...manner, message, text, resolve, reject, until, timer, later: null, unsent: null, tries: 0 };
      this.#pending.set(id, request);
      this.#sendAfter(0, request, null);
    });
  }

  /**
   * Send a request when it has waited and has its place in the rate.
   * @param {number} pause milliseconds
   * @param {Pending} request
   * @param {TrunklineError | null} refusal why it waits
   */
  #sendAfter(pause, request, refusal) {
    this.#cancel(request.later);
    const { wait, after } = this.#place();
    const delay = Math.max(pause, request.urgent ? 0 : wait);
    request.unsent = refusal;
    if (delay > 0) {
      const full = "nothing was sent: the server takes no more messages at the moment";
      request.unsent ??= new TrunklineError("RATE_LIMIT_EXCEEDED", full, true, delay);
      if (this.#timers.now() + delay >= request.until) {
        this.#forgetRequest(request).reject(request.unsent);
        return;
      }
    }
    this.#rateFree = after;
    const send = () => {
      request.unsent = null;
      this.#transmit(request.message, request.text);
    };
    if (delay > 0) request.later = this.#after(delay, send);
    else send();
  }

  /**
   * @param {Pending} request
   * @returns {Pending} the same
   */
  #forgetRequest(request) {
    this.#pending.delete(request.message.id ?? "");
    this.#cancel(request.timer);
    this.#cancel(request.later);
    return request;
  }

  // --- callbacks ----------------------------------------------------------------------------------------------------

  /**
   * @param {State} state
   * @param {string} detail
   * @param {{retryInMs?: number | null, code?: number | null}} [more]
   * @returns {boolean} whether to go on: no listener has closed or reconnected
   */
  #setState(state, detail, { retryInMs = null, code = null } = {}) {
    const generation = this.#generation;
    this.#state = state;
    /** @type {StateChange} */
    const change = { state, url: this.url, detail, attempt: this.#attempt, retryInMs, code };
    this.#emit("state", change);
    return generation === this.#generation;
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
