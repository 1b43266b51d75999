// @ts-check
/**
 * The test page of an app that is not the stock one: its WebSocket endpoints, each to be opened by hand.
 *
 * Rules: it opens nothing by itself, and nothing but what the app declares. What came over the network reaches the document
 * only as text, never as markup. Every list is bounded. Messages are shown as they are: what they mean, the app knows.
 */

const SHOWN_LIMIT = 200;
const TEXT_LIMIT = 2000;

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
 * A field with its label.
 * @param {string} label
 * @param {boolean} required
 */
function field(label, required) {
  const outer = make("label", "grow", label);
  const input = document.createElement("input");
  input.name = label;
  input.required = required;
  input.spellcheck = false;
  outer.append(input);
  return { outer, input };
}

/**
 * The address of an endpoint on the page's own host.
 * @param {string} path
 * @param {string} query
 */
function addressOf(path, query) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return `${scheme}//${location.host}${path}${query ? `?${query.replace(/^\?/, "")}` : ""}`;
}

/**
 * A card for one endpoint; `{name}` in its path is a field.
 * @param {string} path
 */
function endpointCard(path) {
  const card = make("section", "card");
  card.dataset.testid = `endpoint-${path}`;
  const state = make("span", "pill", "not open");
  state.setAttribute("role", "status");
  const head = make("header", "");
  head.append(make("h2", "", path), state);

  const opening = document.createElement("form");
  opening.className = "row";
  opening.autocomplete = "off";
  const params = [...path.matchAll(/\{([A-Za-z_]\w*)\}/g)].map(([whole, name]) => ({ whole, ...field(name, true) }));
  const query = field("Query", false);
  const toggle = make("button", "primary", "Open");
  opening.append(...params.map(({ outer }) => outer), query.outer, toggle);

  const stream = make("ol", "stream");
  stream.setAttribute("role", "log");
  stream.setAttribute("aria-label", `Messages of ${path}`);
  stream.tabIndex = 0;
  const sending = document.createElement("form");
  sending.className = "row";
  sending.autocomplete = "off";
  const text = field("Message", true);
  sending.append(text.outer, make("button", "", "Send"));
  card.append(head, opening, stream, sending);

  /**
   * @param {"in" | "out" | "state"} direction
   * @param {string} what
   */
  function show(direction, what) {
    const item = make("li", direction === "out" ? "line own" : "line");
    const meta = make("div", "meta");
    meta.append(make("b", "", direction), make("time", "", new Date().toLocaleTimeString([], { hour12: false })));
    item.append(meta, make("code", "", what.length > TEXT_LIMIT ? `${what.slice(0, TEXT_LIMIT)}…` : what));
    stream.append(item);
    while (stream.childElementCount > SHOWN_LIMIT) stream.firstElementChild?.remove();
    stream.scrollTop = stream.scrollHeight;
  }

  /** @type {WebSocket | null} */
  let socket = null;

  /** @param {string} word */
  function enter(word) {
    state.textContent = card.dataset.state = word;
    toggle.textContent = socket ? "Close" : "Open";
  }

  function open() {
    const filled = params.reduce((made, { whole, input }) => made.replace(whole, encodeURIComponent(input.value)), path);
    const opened = new WebSocket(addressOf(filled, query.input.value.trim()));
    socket = opened;
    enter("connecting");
    opened.addEventListener("open", () => enter("open"));
    opened.addEventListener("message", ({ data }) =>
      show("in", typeof data === "string" ? data : `${data.size} bytes of binary data`),
    );
    opened.addEventListener("close", ({ code, reason }) => {
      if (socket === opened) socket = null;
      enter("closed");
      show("state", `closed with ${code}${reason ? `: ${reason}` : ""}`);
    });
  }

  opening.addEventListener("submit", (event) => {
    event.preventDefault();
    if (socket) socket.close(1000);
    else open();
  });
  sending.addEventListener("submit", (event) => {
    event.preventDefault();
    if (socket?.readyState !== WebSocket.OPEN) {
      show("state", "open it first");
      return;
    }
    socket.send(text.input.value);
    show("out", text.input.value);
    text.input.value = "";
  });
  return card;
}

/** @param {string} id */
function find(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element with the id ${id}`);
  return element;
}

try {
  const answer = await fetch("/api/instance");
  if (!answer.ok) throw new Error(`/api/instance answers ${answer.status}`);
  /** @type {{name: string, app: string, endpoints: string[]}} */
  const instance = await answer.json();
  document.title = instance.app;
  find("app-name").textContent = instance.app;
  find("node-name").textContent = instance.name;
  find("endpoints").append(...instance.endpoints.map(endpointCard));
  if (!instance.endpoints.length) find("note").textContent = "This app declares no WebSocket endpoint.";
} catch (error) {
  const note = find("note");
  note.textContent = `The endpoints are not known: ${error instanceof Error ? error.message : error}`;
  note.dataset.tone = "bad";
}
