// Draws the plots of a load report from the JSON in the page, and shows the values at the moment pointed at.
// Every text goes in as text, never as markup: names of stages are the user's, and so may hold anything.
"use strict";

const HEIGHT = 210;
const MARGIN = { top: 18, right: 12, bottom: 22, left: 54 };
const STEPS = [1, 2, 2.5, 5, 10];
const SECONDS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 36000, 86400];

// --- elements --------------------------------------------------------------------------------------------------------

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// --- numbers as text -------------------------------------------------------------------------------------------------

/** To `digits` significant digits, without zeros at the end and without an exponent. */
function short(number, digits = 3) {
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(number) || 1)));
  return Number(number.toFixed(Math.min(decimals, 6))).toLocaleString("en", { maximumFractionDigits: 6 });
}

function scaled(number, base, names, digits) {
  let power = 0;
  while (power + 1 < names.length && Math.abs(number) >= base ** (power + 1) * 0.99995) power += 1;
  return short(number / base ** power, digits) + names[power];
}

/** In the units of the tables. */
function milliseconds(number, digits) {
  if (number === 0) return "0";
  return number < 999.5 ? `${short(number, digits)} ms` : `${short(number / 1000, digits)} s`;
}

const FORMATS = {
  count: (number, digits) => (digits ? scaled(number, 1000, ["", "k", "M", "G"], digits) : short(number, 9)),
  per_s: (number, digits) =>
    (digits ? scaled(number, 1000, ["", "k", "M", "G"], digits) : short(number, number < 1000 ? 4 : 9)) + "/s",
  ms: milliseconds,
  bytes: (number, digits) => scaled(number, 1024, [" B", " KiB", " MiB", " GiB", " TiB"], digits),
  percent: (number, digits) => `${short(number, digits)} %`,
};

function duration(seconds, step) {
  if (step < 60) return `${short(seconds, 6)} s`;
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.round((seconds % 3600) / 60);
  return hours ? `${hours} h${minutes ? ` ${minutes}` : ""}` : minutes ? `${minutes} min` : "0";
}

function moment(seconds) {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (whole < 120) return `${short(seconds, 4)} s`;
  return parts.map((part) => String(part).padStart(2, "0")).join(":").replace(/^00:/, "");
}

// --- scales ----------------------------------------------------------------------------------------------------------

/** Marks from 0 to at least `most`, at round distances: of 1, 2, 2.5 or 5 times a power of ten, for bytes of 1024. */
function linearScale(most, unit) {
  const top = most > 0 ? most : 1;
  const whole = unit === "count" || unit === "per_s";
  const block = unit === "bytes" ? 1024 ** Math.floor(Math.log(Math.max(top, 1)) / Math.log(1024)) : 1;
  const rough = top / block / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = STEPS.find((each) => each * power >= rough * 0.999) * power * block;
  if (whole && step < 1) step = 1;
  const ticks = [];
  for (let count = 0; count < 9; count += 1) {
    ticks.push(count * step);
    if (count * step >= top * 0.999) break;
  }
  const end = ticks[ticks.length - 1];
  return { ticks, share: (value) => value / end };
}

function logScale(least, most) {
  let low = Math.floor(Math.log10(least));
  let high = Math.ceil(Math.log10(most));
  if (high === low) high += 1;
  const between = high - low < 2 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = low; power <= high; power += 1) {
    for (const each of between) if (power < high || each === 1) ticks.push(each * 10 ** power);
  }
  while (ticks.length > 2 && ticks[1] <= least) ticks.shift();
  while (ticks.length > 2 && ticks[ticks.length - 2] >= most) ticks.pop();
  low = Math.log10(ticks[0]);
  high = Math.log10(ticks[ticks.length - 1]);
  return { ticks, share: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) };
}

function timeAxis(data) {
  const last = Math.max(data.times[data.times.length - 1], 1);
  return {
    xs: data.times,
    end: last,
    marks: data.marks,
    ticks(room) {
      const step = SECONDS.find((each) => last / each <= room / 62) || last;
      const ticks = [];
      for (let at = 0; at <= last; at += step) ticks.push([at, duration(at, step)]);
      return ticks;
    },
    title(index) {
      const at = data.times[index];
      const stage = data.marks.filter((mark) => mark.at < at).pop();
      return stage && stage.name ? `${moment(at)}, ${stage.name}` : moment(at);
    },
  };
}

function percentileAxis(nines) {
  const percent = (nine) => `${Number((100 * (1 - 10 ** -nine)).toFixed(Math.max(0, Math.ceil(nine) - (nine % 1 ? 1 : 2))))} %`;
  return {
    xs: nines,
    end: nines[nines.length - 1],
    marks: [],
    ticks: () => [0, Math.log10(2), 1, 2, 3, 4, 5, 6].filter((at) => at <= nines[nines.length - 1] + 1e-9).map((at) => [at, percent(at)]),
    title: (index) => percent(nines[index]),
  };
}

// --- one plot --------------------------------------------------------------------------------------------------------

/** Paths of a line: its pieces between holes, and the points that are alone between two holes, which become dots. */
function paths(values, xs, x, y) {
  let pieces = "";
  let lone = "";
  let pen = false;
  values.forEach((value, index) => {
    if (value === null) {
      pen = false;
      return;
    }
    const place = `${x(xs[index]).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!pen && (index + 1 === values.length || values[index + 1] === null)) lone += `M${place}h0`;
    else pieces += (pen ? "L" : "M") + place;
    pen = true;
  });
  return [pieces, lone];
}

function plot(spec, axis, pointTo) {
  const format = FORMATS[spec.unit];
  const known = spec.lines.flatMap((line) => line.values).filter((value) => value !== null);
  const most = known.reduce((a, b) => Math.max(a, b), 0);
  const positive = known.filter((value) => value > 0);
  const least = positive.reduce((a, b) => Math.min(a, b), most);
  let scale = spec.scale === "log" && positive.length ? "log" : "linear";
  let x = null;
  let y = null;

  const caption = html("figcaption", {}, html("h3", {}, spec.title), html("span", { class: "soft" }, spec.note));
  const key = (line) => html("span", { class: `key ${line.look}${line.dashed ? " dashed" : ""}` }, line.name);
  const drawing = svg("svg", { "aria-hidden": "true" });
  const tip = html("div", { class: "tip", hidden: "" });
  const frame = html("div", {
    class: "frame", tabindex: "0", role: "slider", "aria-label": spec.title, "aria-orientation": "horizontal",
    "aria-valuemin": "0", "aria-valuemax": String(axis.xs.length - 1), "aria-valuenow": "0", "aria-valuetext": "no point chosen",
  }, drawing, tip);
  const figure = html("figure", {}, caption, html("div", { class: "legend", "aria-hidden": "true" }, ...spec.lines.map(key)), frame);
  let pointer = svg("g");

  if (spec.scale && positive.length) {
    const toggle = html("button", { type: "button", "aria-pressed": String(scale === "log") }, "log scale");
    toggle.addEventListener("click", () => {
      scale = scale === "log" ? "linear" : "log";
      toggle.setAttribute("aria-pressed", String(scale === "log"));
      draw();
    });
    caption.append(toggle);
  }

  function draw() {
    const width = Math.max(frame.clientWidth, 240);
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const values = scale === "log" ? logScale(least, most) : linearScale(most, spec.unit);
    x = (at) => MARGIN.left + (at / axis.end) * (right - MARGIN.left);
    y = (value) => bottom - values.share(value) * (bottom - MARGIN.top);
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const parts = [];
    for (const tick of values.ticks) {
      const at = y(tick).toFixed(1);
      parts.push(svg("line", { class: tick === values.ticks[0] ? "base" : "grid", x1: MARGIN.left, x2: right, y1: at, y2: at }));
      parts.push(svg("text", { x: MARGIN.left - 6, y: Number(at) + 4, "text-anchor": "end" }, format(tick, 3)));
    }
    let free = -Infinity;
    for (const [at, label] of axis.ticks(right - MARGIN.left)) {
      const half = label.length * 3.2;
      const middle = Math.min(x(at), width - half);
      parts.push(svg("line", { class: "base", x1: x(at), x2: x(at), y1: bottom, y2: bottom + 4 }));
      if (middle - half < free) continue;
      parts.push(svg("text", { x: middle, y: HEIGHT - 4, "text-anchor": "middle" }, label));
      free = middle + half + 6;
    }
    parts.push(...stages(right, bottom));
    // Counts of the same thing mostly coincide: the first is wider and shows beneath the others. Of latencies the
    // greatest comes first, for it would cover the others where the points are dense.
    const dense = axis.xs.length > width ? " dense" : "";
    for (const line of spec.unit === "ms" ? [...spec.lines].reverse() : spec.lines) {
      const kind = line.dashed ? " dashed" : spec.unit === "count" && line === spec.lines[0] ? " under" : dense;
      const [pieces, lone] = paths(line.values, axis.xs, x, y);
      if (pieces) parts.push(svg("path", { class: `curve ${line.look}${kind}`, d: pieces }));
      if (lone) parts.push(svg("path", { class: `curve lone ${line.look}`, d: lone }));
    }
    if (spec.unit === "per_s" && most === 0) {
      parts.push(svg("text", { x: (MARGIN.left + right) / 2, y: (MARGIN.top + bottom) / 2, "text-anchor": "middle" }, "none"));
    }
    pointer = svg("g");
    drawing.replaceChildren(...parts, pointer);
  }

  /** A thin line where each stage begins, with as much of its name as fits before the next. */
  function stages(right, bottom) {
    return axis.marks.flatMap((mark, index) => {
      const next = axis.marks[index + 1];
      const room = Math.floor(((next ? x(next.at) : right) - x(mark.at) - 6) / 5.9);
      const name = mark.name.length <= room ? mark.name : room >= 4 ? `${mark.name.slice(0, room - 1)}…` : "";
      const label = svg("text", { class: "mark", x: x(mark.at) + 4, y: 11 }, name);
      if (mark.at === 0) return [label];
      return [svg("line", { class: "stage", x1: x(mark.at), x2: x(mark.at), y1: 2, y2: bottom }), label];
    });
  }

  /** Show the values at a point of the axis, or none. */
  function show(index) {
    tip.hidden = index === null;
    if (index === null) {
      pointer.replaceChildren();
      return;
    }
    const at = x(axis.xs[index]);
    const rows = spec.lines.map((line) => [line, line.values[index]]);
    const words = ([, value]) => (value === null || value === undefined ? "–" : format(value));
    pointer.replaceChildren(
      svg("line", { class: "cross", x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      ...rows.filter(([, value]) => typeof value === "number")
        .map(([line, value]) => svg("circle", { class: `dot ${line.look}`, cx: at, cy: y(value), r: 3.5 })),
    );
    tip.replaceChildren(
      html("b", {}, axis.title(index)),
      ...rows.map((row) => html("div", {}, key(row[0]), html("span", {}, words(row)))),
    );
    const left = at > frame.clientWidth / 2 ? at - tip.offsetWidth - 10 : at + 10;
    tip.style.left = `${Math.max(0, Math.min(left, frame.clientWidth - tip.offsetWidth))}px`;
    frame.setAttribute("aria-valuenow", String(index));
    frame.setAttribute("aria-valuetext", `${axis.title(index)}: ${rows.map((row) => `${row[0].name} ${words(row)}`).join(", ")}`);
  }

  function nearest(event) {
    const at = ((event.clientX - frame.getBoundingClientRect().left - x(0)) / (x(axis.end) - x(0))) * axis.end;
    let low = 0;
    let high = axis.xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (axis.xs[middle] < at) low = middle;
      else high = middle;
    }
    return at - axis.xs[low] < axis.xs[high] - at ? low : high;
  }
  for (const kind of ["pointerdown", "pointermove"]) frame.addEventListener(kind, (event) => pointTo(() => nearest(event)));
  frame.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && pointTo(() => null));
  frame.addEventListener("blur", () => pointTo(() => null));
  frame.addEventListener("keydown", (event) => {
    const stride = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowRight: (now) => (now ?? -1) + stride, ArrowUp: (now) => (now ?? -1) + stride,
      ArrowLeft: (now) => (now ?? axis.xs.length) - stride, ArrowDown: (now) => (now ?? axis.xs.length) - stride,
      PageDown: (now) => (now ?? 0) + 30, PageUp: (now) => (now ?? 0) - 30,
      Home: () => 0, End: () => axis.xs.length - 1, Escape: () => null,
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    pointTo((now) => {
      const to = move(now);
      return to === null ? null : Math.max(0, Math.min(to, axis.xs.length - 1));
    });
  });
  return { figure, frame, draw, show };
}

// --- plots that point at the same moment -----------------------------------------------------------------------------

function group(root, specs, axis) {
  let index = null;
  const pointTo = (next) => {
    index = next(index);
    for (const each of plots) each.show(index);
  };
  const plots = specs.map((spec) => plot(spec, axis, pointTo));
  root.append(...plots.map((each) => each.figure));
  const widths = new Map();
  const drawChanged = () => {
    for (const each of plots) {
      if (widths.get(each) === each.frame.clientWidth) continue;
      widths.set(each, each.frame.clientWidth);
      each.draw();
      each.show(index);
    }
  };
  drawChanged();
  new ResizeObserver(drawChanged).observe(root);
}

document.getElementById("pointing")?.removeAttribute("hidden");
const data = JSON.parse(document.getElementById("plots-data").textContent);
if (data.over_time.length) group(document.getElementById("over-time"), data.over_time, timeAxis(data));
if (data.curve) group(document.getElementById("curve"), [data.curve.plot], percentileAxis(data.curve.nines));
