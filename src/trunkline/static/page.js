// @ts-check
/**
 * The node's test page: each endpoint of the stock app, usable by hand.
 *
 * Rules: what came over the network reaches the document only as text, never as markup. Every list is bounded. The page
 * uses nothing of the client that an application could not use.
 */

import { connect } from "/trunkline.js";

/** @typedef {import("./trunkline.js").Connection} Connection */
/** @typedef {import("./trunkline.js").Subscription} Subscription */
/** @typedef {import("./trunkline.js").StateChange} StateChange */
/** @typedef {import("./trunkline.js").Publication} Publication */
/** @typedef {import("./trunkline.js").Gap} Gap */
/** @typedef {import("./trunkline.js").Message} Message */

const LOG_LIMIT = 300;
const STREAM_LIMIT = 200;
const LOG_TEXT_LIMIT = 2000;
const QUIET_TYPES = new Set(["heartbeat", "pong"]);

/** Where the page remembers which match it is in, and the node's own parameter names. */
const query = new URLSearchParams(location.search);

// --- elements --------------------------------------------------------------------------------------------------------

/**
 * The element with this id, of this class.
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
function find(id, kind) {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page has no ${kind.name} with the id ${id}`);
  return element;
}

/** @param {string} id */
const input = (id) => find(id, HTMLInputElement);

/**
 * @param {string} tag
 * @param {string} className
 * @param {string} [text]
 */
function make(tag, className, text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

/**
 * Add an item at the end of a bounded list, and keep the end in view for whoever was looking at it.
 * @param {Element} list
 * @param {Element} item
 * @param {number} limit
 */
function append(list, item, limit) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.querySelector(":scope > .empty")?.remove();
  list.append(item);
  while (list.childElementCount > limit) list.firstElementChild?.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** @param {number | undefined} ts milliseconds since 1970 */
function clock(ts) {
  return new Date(ts ?? Date.now()).toLocaleTimeString([], { hour12: false });
}

/** @param {unknown} value */
function show(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/**
 * What was typed, as JSON where it is JSON and as a string where it is not.
 * @param {string} text
 */
function parseData(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Say what became of an action, under its panel.
 * @param {string} id
 * @param {string} text
 * @param {"good" | "bad"} [tone]
 */
function note(id, text, tone = "good") {
  const element = find(id, HTMLElement);
  element.textContent = text;
  element.dataset.tone = tone;
}

/** @param {unknown} error */
function reason(error) {
  if (!(error instanceof Error)) return String(error);
  const code = "code" in error ? `${error.code}: ` : "";
  const again = "temporary" in error && error.temporary ? " Try again." : "";
  return `${code}${error.message}${again}`;
}

/** @param {Gap} gap */
function gapText(gap) {
  const after = gap.after === null ? "the start" : gap.after;
  const range = gap.before === null ? `after ${after}` : `between ${after} and ${gap.before}`;
  return `Gap in ${gap.channel} ${range} (${gap.reason})`;
}

/**
 * Four characters, to tell tabs apart. Not crypto.randomUUID, which a page on plain HTTP lacks.
 * @param {string} prefix
 */
function suggestName(prefix) {
  return `${prefix}-${Math.random().toString(36).slice(2, 6)}`;
}

// --- log -------------------------------------------------------------------------------------------------------------

const logList = find("log", HTMLElement);
const pauseButton = find("log-pause", HTMLButtonElement);
let paused = false;
let skipped = 0;
find("log-limit", HTMLElement).textContent = String(LOG_LIMIT);

/**
 * @param {string} source which connection
 * @param {"in" | "out" | "state"} direction
 * @param {string} text
 */
function log(source, direction, text) {
  if (paused) {
    skipped += 1;
    pauseButton.textContent = `Resume (${skipped} skipped)`;
    return;
  }
  const item = make("li", direction);
  const words = { in: "in", out: "out", state: "state" };
  const cut = text.length > LOG_TEXT_LIMIT ? `${text.slice(0, LOG_TEXT_LIMIT)}… (${text.length} characters)` : text;
  item.append(
    make("time", "", clock(undefined)),
    make("span", "source", source),
    make("span", "direction", words[direction]),
    make("code", "", cut),
  );
  append(logList, item, LOG_LIMIT);
}

pauseButton.addEventListener("click", () => {
  paused = !paused;
  skipped = 0;
  pauseButton.setAttribute("aria-pressed", String(paused));
  pauseButton.textContent = paused ? "Resume" : "Pause";
});
find("log-clear", HTMLButtonElement).addEventListener("click", () => logList.replaceChildren());

// --- connections -----------------------------------------------------------------------------------------------------

/**
 * A card that shows one connection, and the connection.
 * @param {string} name
 * @param {string} url
 */
function openConnection(name, url) {
  const card = make("article", "connection");
  card.dataset.testid = `connection-${name}`;
  const pill = make("span", "pill", "connecting");
  pill.dataset.testid = `state-${name}`;
  pill.setAttribute("role", "status");
  const detail = make("p", "detail");
  detail.dataset.testid = `detail-${name}`;
  const facts = make("dl", "");
  /** @param {string} term @param {string} key */
  const fact = (term, key) => {
    const value = make("dd", "", "–");
    value.dataset.testid = `${key}-${name}`;
    facts.append(make("dt", "", term), value);
    return value;
  };
  const urlText = fact("URL", "url");
  const nodeText = fact("Node", "node");
  const idText = fact("ID", "id");
  const again = make("button", "small", "Reconnect");
  again.dataset.testid = `reconnect-${name}`;
  again.setAttribute("type", "button");
  again.setAttribute("aria-label", `Reconnect ${name}`);
  const head = make("div", "head");
  head.append(make("h3", "", name), pill, again);
  card.append(head, detail, facts);

  const connection = connect(url);
  again.addEventListener("click", () => connection.reconnect());
  let countdown = 0;
  connection.on("state", (/** @type {StateChange} */ change) => {
    clearInterval(countdown);
    card.dataset.state = change.state;
    pill.textContent = change.state;
    urlText.textContent = change.url;
    again.toggleAttribute("disabled", change.state === "closed");
    const attempt = change.attempt > 0 && change.state !== "open" ? `, attempt ${change.attempt}` : "";
    const base = `${change.detail}${attempt}`;
    detail.textContent = base;
    if (change.retryInMs !== null && change.retryInMs >= 1000) {
      const until = performance.now() + change.retryInMs;
      const tick = () => {
        detail.textContent = `${base}, retry in ${Math.max(0, Math.ceil((until - performance.now()) / 1000))} s`;
      };
      tick();
      countdown = window.setInterval(tick, 500);
    }
    log(name, "state", base ? `${change.state}: ${base}` : change.state);
  });
  connection.on("connection_established", (/** @type {Message} */ message) => {
    nodeText.textContent = message.node ?? "–";
    idText.textContent = message.connection_id ?? "–";
    if (message.node) find("node-name", HTMLElement).textContent = message.node;
  });
  const heartbeats = input("log-heartbeats");
  connection.on("*", (/** @type {Message} */ message) => {
    if (!QUIET_TYPES.has(message.type) || heartbeats.checked) log(name, "in", JSON.stringify(message));
  });
  connection.on("sent", (/** @type {Message} */ message) => {
    if (!QUIET_TYPES.has(message.type) || heartbeats.checked) log(name, "out", JSON.stringify(message));
  });
  return { connection, card };
}

const cards = find("connections", HTMLElement);

/**
 * A slot holds one connection at a time; opening another closes the one before.
 * @param {string} name
 */
function slot(name) {
  /** @type {{connection: Connection, card: HTMLElement} | null} */
  let held = null;
  return {
    get connection() {
      return held?.connection ?? null;
    },
    /** @param {string} url */
    open(url) {
      held?.connection.close();
      const next = openConnection(name, url);
      if (held) held.card.replaceWith(next.card);
      else cards.append(next.card);
      held = next;
      return next.connection;
    },
    shut() {
      held?.connection.close();
      held?.card.remove();
      held = null;
    },
  };
}

/** The node's endpoints, of which settings switch some off; null when they are not known, and all may be there. */
async function declared() {
  try {
    const answer = await fetch("/api/instance");
    /** @type {string[] | undefined} */
    const paths = answer.ok ? (await answer.json()).endpoints : undefined;
    return paths ? new Set(paths) : null;
  } catch {
    return null;
  }
}

// --- channels --------------------------------------------------------------------------------------------------------

const endpoints = await declared();
const feed = slot("feed").open("/ws");
const channelInput = input("subscribe-channel");
const subscriptionList = find("subscriptions", HTMLElement);
const publicationList = find("publications", HTMLElement);
/** @type {Map<string, {subscription: Subscription, chip: HTMLElement}>} */
const subscriptions = new Map();

/**
 * @param {Publication} publication
 * @param {boolean} replayed
 */
function showPublication({ channel, offset, data, ts }, replayed) {
  const item = make("li", replayed ? "publication replayed" : "publication");
  const head = make("div", "meta");
  head.append(make("b", "", channel), make("span", "offset", offset === null ? "no offset" : `#${offset}`));
  if (replayed) head.append(make("span", "tag", "replayed"));
  head.append(make("time", "", clock(ts)));
  item.append(head, make("code", "", show(data)));
  append(publicationList, item, STREAM_LIMIT);
}

/** @param {string} channel */
function subscribe(channel) {
  if (subscriptions.has(channel)) {
    note("channels-note", `Already subscribed to ${channel}.`);
    return;
  }
  const chip = make("li", "chip");
  const place = make("span", "place", "asking…");
  const leave = make("button", "leave", "×");
  leave.setAttribute("type", "button");
  leave.setAttribute("aria-label", `Unsubscribe from ${channel}`);
  chip.append(make("span", "", channel), place, leave);
  const refresh = () => {
    const position = subscriptions.get(channel)?.subscription.position;
    place.textContent = position ? `#${position.offset}` : "live";
  };
  const subscription = feed.subscribe(channel, {
    onPublication(_data, publication) {
      showPublication(publication, false);
      refresh();
    },
    onSubscribed(position) {
      refresh();
      const recovered = position.recovered ? `, ${position.replayed} missed publications recovered` : "";
      note("channels-note", `Subscribed to ${channel}${recovered}.`);
    },
    onGap(gap) {
      refresh();
      append(publicationList, make("li", "gap", gapText(gap)), STREAM_LIMIT);
    },
    onError(error) {
      drop();
      note("channels-note", `${channel}: ${reason(error)}`, "bad");
    },
  });
  const drop = () => {
    subscription.unsubscribe();
    subscriptions.delete(channel);
    chip.remove();
  };
  leave.addEventListener("click", () => {
    drop();
    channelInput.focus();
  });
  subscriptions.set(channel, { subscription, chip });
  subscriptionList.append(chip);
}

find("subscribe-form", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    subscribe(channelInput.value.trim());
  } catch (error) {
    note("channels-note", reason(error), "bad");
  }
});

find("publish-form", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const channel = channelInput.value.trim();
  try {
    const ack = await feed.publish(channel, parseData(find("publish-data", HTMLTextAreaElement).value));
    const place = typeof ack.offset === "number" ? ` as #${ack.offset}` : "";
    const unseen = subscriptions.has(channel) ? "" : " You are not subscribed to it.";
    note("channels-note", `Published to ${channel}${place}.${unseen}`);
  } catch (error) {
    note("channels-note", reason(error), "bad");
  }
});

find("replay", HTMLButtonElement).addEventListener("click", async () => {
  const channel = channelInput.value.trim();
  try {
    const result = await feed.replay(channel, { since: input("replay-since").valueAsNumber || 0 });
    for (const publication of result.publications) showPublication(publication, true);
    const count = result.publications.length;
    const why = result.answer.reason ?? "unknown";
    const rest = result.complete ? "" : ` Some are gone (${why}).`;
    note("channels-note", `Replayed ${count} of ${channel}.${rest}`, result.complete ? "good" : "bad");
  } catch (error) {
    note("channels-note", reason(error), "bad");
  }
});

// --- chat ------------------------------------------------------------------------------------------------------------

const chat = slot("chat");
const chatLines = find("chat-lines", HTMLElement);
const roomInput = input("chat-room");
const nameInput = input("chat-name");
roomInput.value = query.get("room") || "lobby";
nameInput.value = query.get("name") || suggestName("guest");

function joinChat() {
  const room = roomInput.value.trim();
  const name = nameInput.value.trim();
  const connection = chat.open(`/ws/chat/${encodeURIComponent(name)}?${new URLSearchParams({ room })}`);
  chatLines.replaceChildren(make("li", "empty", `No messages in ${room} yet.`));
  connection.listen(`chat.${room}`, {
    onPublication(data, { ts }) {
      const own = data?.from === (connection.established?.connection_id ?? name);
      const item = make("li", own ? "line own" : "line");
      const head = make("div", "meta");
      head.append(make("b", "", own ? `${show(data.from)} (you)` : show(data?.from ?? "?")), make("time", "", clock(ts)));
      item.append(head, make("p", "", show(data?.text ?? data)));
      append(chatLines, item, STREAM_LIMIT);
    },
    onSubscribed: ({ recovered, replayed }) =>
      note("chat-note", recovered && replayed ? `Back in ${room}: ${replayed} messages recovered.` : `In ${room}.`),
    onGap: (gap) => append(chatLines, make("li", "gap", gapText(gap)), STREAM_LIMIT),
  });
}

find("chat-join", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  joinChat();
});

find("chat-form", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = input("chat-text");
  const line = text.value;
  try {
    const answer = chat.connection?.request({ type: "message", text: line });
    text.value = "";
    await answer;
  } catch (error) {
    // Give the words back, unless others have been typed since.
    if (text.value === "") text.value = line;
    note("chat-note", reason(error), "bad");
  }
});

if (!endpoints || endpoints.has("/ws/chat/{connection_id}")) joinChat();
else find("chat-panel", HTMLElement).hidden = true;

// --- match -----------------------------------------------------------------------------------------------------------

const match = slot("match");
const matchJoin = find("match-join", HTMLFormElement);
const matchLive = find("match-live", HTMLElement);
const matchAbout = find("match-about", HTMLElement);
const matchMoves = find("match-moves", HTMLElement);
const matchPlayers = find("match-players", HTMLElement);
const matchIdInput = input("match-id");
const playerInput = input("match-player");
matchIdInput.value = query.get("matchId") ?? "";
playerInput.value = query.get("player") || suggestName("player");

/**
 * @param {string} player
 * @param {unknown} data
 * @param {{own?: boolean, offset?: number | null, ts?: number}} [more]
 */
function showMove(player, data, { own = false, offset = null, ts } = {}) {
  const item = make("li", own ? "line own" : "line");
  const head = make("div", "meta");
  head.append(make("b", "", own ? "you" : player));
  if (offset !== null) head.append(make("span", "offset", `#${offset}`));
  head.append(make("time", "", clock(ts)));
  item.append(head, make("code", "", show(data)));
  append(matchMoves, item, STREAM_LIMIT);
}

/** Remember the match in the address, so that a reload and a shared link lead back to it. */
function rememberMatch(/** @type {{matchId: string, player: string} | null} */ where) {
  const next = new URL(location.href);
  for (const key of ["matchId", "player"]) next.searchParams.delete(key);
  for (const [key, value] of Object.entries(where ?? {})) next.searchParams.set(key, value);
  history.replaceState(null, "", next);
}

function joinMatch() {
  const matchId = matchIdInput.value.trim();
  const player = playerInput.value.trim();
  rememberMatch({ matchId, player });
  const connection = match.open(`/api/game?${new URLSearchParams({ matchId, player })}`);
  matchJoin.hidden = matchAbout.hidden = true;
  matchLive.hidden = false;
  find("match-name", HTMLElement).textContent = `${matchId} as ${player}`;
  matchPlayers.replaceChildren();
  matchMoves.replaceChildren(make("li", "empty", "No moves yet."));
  // The server may lend another name when this one is taken; the first to join on a connection is oneself.
  let self = player;
  let joining = true;
  connection.on("connection_established", () => (joining = true));
  const players = (/** @type {Message} */ message) => {
    if (joining && message.type === "player_joined") {
      joining = false;
      self = show(message.player);
      find("match-name", HTMLElement).textContent = `${matchId} as ${self}`;
    }
    const names = Array.isArray(message.players) ? message.players : [];
    matchPlayers.replaceChildren(...names.map((name) => make("li", "chip plain", show(name))));
    const verb = message.type === "player_joined" ? "joined" : "left";
    append(matchMoves, make("li", "event", `${show(message.player)} ${verb}`), STREAM_LIMIT);
  };
  connection.on("player_joined", players);
  connection.on("player_left", players);
  connection.listen(`match.${matchId}`, {
    onPublication(data, { offset, ts }) {
      // What a player sent comes whole: of a move, show what it carries.
      const sent = data?.data?.type === "move" ? data.data.data : data?.data;
      showMove(show(data?.player ?? "?"), sent ?? data, { offset, ts, own: data?.player === self });
    },
    onGap: (gap) => append(matchMoves, make("li", "gap", gapText(gap)), STREAM_LIMIT),
  });
  note("match-note", "");
}

matchJoin.addEventListener("submit", (event) => {
  event.preventDefault();
  joinMatch();
});

find("match-leave", HTMLButtonElement).addEventListener("click", () => {
  match.shut();
  rememberMatch(null);
  matchJoin.hidden = matchAbout.hidden = false;
  matchLive.hidden = true;
  note("match-note", "");
  matchIdInput.focus();
});

find("move-form", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const connection = match.connection;
  if (!connection) return;
  const data = parseData(input("move-data").value);
  try {
    const ack = await connection.request({ type: "move", data });
    showMove("", data, { own: true, offset: ack.offset ?? null, ts: ack.ts });
    note("match-note", "");
  } catch (error) {
    note("match-note", reason(error), "bad");
  }
});

if (endpoints && !endpoints.has("/api/game")) find("match-panel", HTMLElement).hidden = true;
else if (matchIdInput.value) joinMatch();
