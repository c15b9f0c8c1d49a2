"use strict";
// The page of predictions: draws the data that `page.py` wrote into the element #data.
//
// Texts come from models, tasks and file names: they are set as text, never as markup. What is
// looked at is one flat object, `state`, which is also the fragment of the address. A change goes
// through `set`, which draws again what depends on it.

const CLASSES = {
  solved: ["✓", "Solved", "The right grid is among the first two candidates, of every output"],
  missed: ["◆", "In the pool, not chosen", "Some prediction is right, and is not among the first two"],
  absent: ["✕", "Not in the pool", "No prediction is right"],
  none: ["∅", "Nothing answered", "No prediction holds a grid"],
  hidden: ["?", "Solution hidden", "Nothing is known to be right or wrong"],
};
// A task with several outputs is of the first class here that one of them is of.
const PRIORITY = ["missed", "absent", "none", "hidden", "solved"];
const CHANGES = {
  gained: ["▲", "Gained", "More of its outputs are solved than by what it is compared with"],
  lost: ["▼", "Lost", "Fewer of its outputs are solved than by what it is compared with"],
  moved: ["↕", "Other first answer", "The first candidate is another grid"],
};
const KEYS = [
  ["← → ↑ ↓", "move among the tasks; in a task, ← and → go to its neighbours"],
  ["Enter", "open the task, or the predictions of a candidate"],
  ["Esc", "back to all tasks"],
  ["/", "find an id"],
  ["s, S", "sort by the next metric; reverse the order"],
  ["v", "next selector"],
  ["c", "palette of ARC, or for colour-blind eyes"],
  ["n", "numbers on the cells"],
  ["d", "mark the cells that differ from the solution"],
  ["t", "light, dark, or as the system"],
];
const THEMES = ["", "light", "dark"];
const FIRST_SHOWN = 24; // candidates of an output, before "show all"
const [GRID, VOTES, LIKELIEST, MEAN, SYMMETRIES, RANKS, LEFT_OUT, PREDICTIONS] = Array(8).keys();

const $ = (id) => document.getElementById(id);

/** Make an element; a text among its children is text. Attributes that are false are left out. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const percent = (value) => (value == null ? "–" : (100 * value).toFixed(1) + "%");
const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const nats = (value) => (value == null ? "–" : value.toFixed(2).replace("-", "−"));
const mean = (values) => {
  const known = values.filter((value) => value != null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
};

async function readData() {
  const text = atob($("data").textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// Grids -------------------------------------------------------------------------------------------

const grids = new Map(); // text -> rows of colours

function parseGrid(text) {
  let rows = grids.get(text);
  if (!rows) {
    rows = text.split("|").map((row) => Array.from(row, Number));
    grids.set(text, rows);
  }
  return rows;
}

const longest = (texts) =>
  Math.max(1, ...texts.filter(Boolean).map((text) => {
    const rows = parseGrid(text);
    return Math.max(rows.length, rows[0].length);
  }));

/** The cells in which two grids of one shape differ; null if the shapes do. */
function differences(text, other) {
  const [a, b] = [parseGrid(text), parseGrid(other)];
  if (a.length !== b.length || a[0].length !== b[0].length) return null;
  return a.flatMap((row, y) => row.flatMap((color, x) => (color === b[y][x] ? [] : [[x, y]])));
}

/** What a view shows of a grid: flip, then quarter turns counter-clockwise, then colours. */
function applyKey(text, { flip, turns, colors }) {
  let rows = parseGrid(text);
  if (flip) rows = rows.map((row) => [...row].reverse());
  for (let turn = 0; turn < turns; turn++)
    rows = rows[0].map((_, i) => rows.map((row) => row[row.length - 1 - i]));
  return rows.map((row) => row.map((color) => colors[color]).join("")).join("|");
}

function parseKey(key) {
  const match = /^flip([01])\.rot([0-3])\.colors(\d{10})\.order([\d-]*)$/.exec(key ?? "");
  if (!match) return null;
  return { flip: match[1] === "1", turns: +match[2], colors: match[3], order: match[4] };
}

/** Draw a grid on a canvas, with cells of so many pixels of the page. */
function draw(canvas, text, cell, { marks = [], numbers = false } = {}) {
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const rows = parseGrid(text);
  const size = Math.max(1, Math.floor(cell * ratio));
  const gap = size >= 5 ? Math.max(1, Math.round(ratio * 0.8)) : 0;
  const [width, height] = [rows[0].length * size + gap, rows.length * size + gap];
  Object.assign(canvas, { width, height });
  canvas.style.width = width / ratio + "px";
  canvas.style.height = height / ratio + "px";
  const pen = canvas.getContext("2d");
  const palette = data.palettes[state.palette];
  if (gap) {
    pen.fillStyle = "#555";
    pen.fillRect(0, 0, width, height);
  }
  rows.forEach((row, y) => row.forEach((color, x) => {
    pen.fillStyle = palette[color];
    pen.fillRect(x * size + gap, y * size + gap, size - gap, size - gap);
  }));
  if (numbers && cell >= 9) {
    pen.font = `${Math.round(size * 0.56)}px ui-monospace, monospace`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    rows.forEach((row, y) => row.forEach((color, x) => {
      pen.fillStyle = isDark(palette[color]) ? "#fff" : "#000";
      pen.fillText(color, (x + 0.5) * size + gap / 2, (y + 0.54) * size + gap / 2);
    }));
  }
  const line = Math.max(1, Math.round(size / 9));
  for (const [x, y] of marks) { // a white ring in a black one stands out from every colour
    const [left, top] = [x * size + gap, y * size + gap];
    for (const [color, inset] of [["#000", 0], ["#fff", line]]) {
      pen.strokeStyle = color;
      pen.lineWidth = line;
      const side = size - gap - line - 2 * inset;
      if (side > 0) pen.strokeRect(left + inset + line / 2, top + inset + line / 2, side, side);
    }
  }
}

function isDark(color) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return 0.3 * r + 0.59 * g + 0.11 * b < 140;
}

/** A canvas of a grid, or a box with "?" where it is hidden or there is none. */
function picture(text, cell, options = {}) {
  if (!text) return el("span", { class: "unknown", role: "img", "aria-label": options.none ?? "hidden" }, "?");
  const rows = parseGrid(text);
  const label = `${options.label ?? "grid"}, ${rows.length} by ${rows[0].length}`;
  const canvas = el("canvas", { role: "img", "aria-label": label });
  draw(canvas, text, cell, options);
  return canvas;
}

const cellFor = (texts, box, most = 22) => {
  const side = longest(texts);
  const cell = Math.max(2, Math.min(most, Math.floor(box / side)));
  return state.numbers ? Math.max(cell, Math.min(14, Math.floor((innerWidth - 60) / side))) : cell;
};

// What is known of a task, by a store and a selector ----------------------------------------------

let data, state, taskKeys;
const judged = new Map();

/** Judge every task of a store by a selector: null, or its class, values and outputs. */
function judge(run, method) {
  const key = `${run} ${method}`;
  if (!judged.has(key)) {
    const place = data.methods.findIndex(([name]) => name === method);
    judged.set(key, data.runs[run].tasks.map((outputs, i) =>
      outputs && judgeTask(data.tasks[i], i, outputs, data.runs[run], place)));
  }
  return judged.get(key);
}

function judgeTask(task, place, outputs, run, method) {
  const outs = outputs.map((output, i) => judgeOutput(task.test[i][1], output, method));
  const values = {};
  run.fixed.forEach((metric, m) => (values[metric] = mean(outputs.map((output) => output.v[m]))));
  const known = task.test.every((pair) => pair[1]);
  if (known) for (const k of [1, 2]) values[`vote_${k}`] = mean(outs.map((o) => +(o.rank > 0 && o.rank <= k)));
  values.agreement = mean(outs.map((o, i) => (outputs[i].n ? o.firstVotes / outputs[i].n : 0)));
  Object.assign(values, {
    first_votes: mean(outs.map((o) => o.firstVotes)),
    first_logprob: mean(outs.map((o) => o.order[0]?.[MEAN])),
    entropy: mean(outputs.map((output) => output.entropy)),
    candidates: mean(outputs.map((output) => output.c.filter(isWritten).length + output.rest[0])),
    predictions: mean(outputs.map((output) => output.n)),
    size: mean(task.test.map(([input, output]) => (output ?? input).replaceAll("|", "").length)),
    id: task.id, place,
  });
  const cls = PRIORITY.find((name) => outs.some((o) => o.cls === name));
  return { cls, values, outs, solved: known ? values.vote_2 : null };
}

/** Tell what a model wrote from what the vote by cells composed; a repeat of a reply has no vote. */
const isWritten = (c) => c[PREDICTIONS].length + c[LEFT_OUT] > 0;

function judgeOutput(solution, output, method) {
  const order = output.c.filter((c) => c[RANKS][method]).sort((a, b) => a[RANKS][method] - b[RANKS][method]);
  const right = solution && order.find((c) => c[GRID] === solution);
  const rank = right ? right[RANKS][method] : 0;
  const inPool = solution && output.c.some((c) => c[GRID] === solution && isWritten(c));
  const cls = !order.length ? "none" : !solution ? "hidden"
    : rank && rank <= 2 ? "solved" : inPool ? "missed" : "absent";
  return { order, right, rank, cls, firstVotes: order[0]?.[VOTES] ?? 0 };
}

/** The store and selector that the shown ones are compared with, or null. */
function baseline() {
  const [run, first] = [state.run, data.methods[0][0]];
  let vs = state.vs;
  if (!vs && data.runs.length > 1) vs = "r" + data.runs.findIndex((_, i) => i !== run);
  if (!vs && state.by !== first) vs = "m" + first;
  if (vs[0] === "r" && +vs.slice(1) !== run) return { run: +vs.slice(1), method: state.by, vs };
  if (vs[0] === "m" && vs.slice(1) !== state.by) return { run, method: vs.slice(1), vs };
  return null;
}

function changesOf(now, then) {
  if (!now || !then) return [];
  const first = (task) => task.outs.map((o) => o.order[0]?.[GRID]).join(" ");
  const moved = first(now) !== first(then) ? ["moved"] : [];
  if (now.solved == null || now.solved === then.solved) return moved;
  return [now.solved > then.solved ? "gained" : "lost", ...moved];
}

const OTHER_SORTS = {
  first_votes: ["votes of the first candidate", (v) => count(+v.toFixed(1), "vote")],
  first_logprob: ["log-probability of the first", (v) => nats(v) + " nats"],
  entropy: ["entropy of the vote", (v) => v.toFixed(2) + " bits"],
  candidates: ["number of candidates", (v) => String(+v.toFixed(1))],
  predictions: ["number of predictions", (v) => String(+v.toFixed(1))],
  size: ["size of the output", (v) => count(+v.toFixed(1), "cell")],
  id: ["id", () => ""],
  place: ["order of the data set", () => ""],
};
const formatSort = (sort, value) =>
  value == null ? "–" : sort in OTHER_SORTS ? OTHER_SORTS[sort][1](value) : Math.round(100 * value) + "%";

// The state and the address -----------------------------------------------------------------------

function defaults() {
  return {
    task: "", open: "", show: "all", q: "", sort: data.sort, up: data.ascending,
    by: data.methods[0][0], run: data.runs.length - 1, vs: "",
    palette: "arc", numbers: false, marks: true, theme: "",
  };
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const read = defaults();
  for (const [name, usual] of Object.entries(read)) {
    if (!given.has(name)) continue;
    const text = given.get(name);
    read[name] = typeof usual === "boolean" ? text === "1" : typeof usual === "number" ? +text : text;
  }
  const usual = defaults(); // whatever an address asks for, the page shows something
  const known = {
    show: ["all", ...Object.keys(CLASSES), ...Object.keys(CHANGES)], sort: sortNames(),
    by: data.methods.map(([name]) => name), run: [...data.runs.keys()],
    palette: Object.keys(data.palettes), theme: THEMES, task: ["", ...taskKeys], vs: againstNames(),
  };
  for (const [name, values] of Object.entries(known))
    if (!values.includes(read[name])) read[name] = usual[name];
  return read;
}

function addressOf(asked) {
  const usual = defaults();
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(asked))
    if (value !== usual[name]) parts.set(name, value === true ? "1" : value === false ? "0" : value);
  return location.href.split("#")[0] + "#" + parts;
}

/** Change what is looked at. */
function set(changes) {
  const before = state;
  state = { ...state, ...changes };
  const address = addressOf(state);
  if (address !== location.href) {
    try { // a notebook's frame may forbid it
      if (state.task !== before.task) history.pushState(null, "", address);
      else history.replaceState(null, "", address);
    } catch { /* the view is right, its address stays */ }
  }
  render(before);
}

function sortNames() {
  const metrics = data.runs.flatMap((run) => run.metrics[data.methods[0][0]].map(([name]) => name));
  const perTask = new Set([...data.runs.flatMap((run) => run.fixed), "vote_1", "vote_2", "agreement"]);
  return [...new Set(metrics.filter((name) => perTask.has(name))), ...Object.keys(OTHER_SORTS)];
}

const againstNames = () =>
  ["", "off", ...data.runs.map((_, i) => "r" + i), ...data.methods.map(([name]) => "m" + name)];

// Drawing the list --------------------------------------------------------------------------------

const cards = []; // by the place of the task
let listed = []; // places of the tasks that are shown, in order

const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = cards[+entry.target.dataset.place];
    card.seen = entry.isIntersecting;
    if (card.seen) paint(card);
  }
}, { rootMargin: "300px" });

function makeCards() {
  data.tasks.forEach((task, place) => {
    const input = el("canvas", { "aria-hidden": "true" });
    const answer = el("canvas", { "aria-hidden": "true" });
    const empty = el("span", { class: "unknown", "aria-hidden": "true" }, "–");
    const [badge, value, strip] = [el("span", { class: "badge" }), el("span", { class: "value" }), el("span", { class: "strip" })];
    const change = el("span", { class: "change" });
    const more = task.test.length > 1 && el("span", { class: "more" }, `${task.test.length} outputs`);
    const link = el("a", { class: "card", tabindex: "-1" },
      el("span", { class: "grids" }, el("span", { class: "slot" }, input), el("span", { class: "arrow" }, "→"),
        el("span", { class: "slot" }, answer, empty)),
      strip,
      el("span", { class: "line" }, el("span", { class: "id" }, task.id), change, badge),
      el("span", { class: "line small" }, value, more));
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      set({ task: taskKeys[place], open: "" });
    });
    link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && peekSoon(place));
    link.addEventListener("pointerleave", hidePeek);
    const item = el("li", { "data-place": place }, link);
    cards.push({ item, link, input, answer, empty, badge, value, strip, change, place, seen: false, painted: "" });
    watch.observe(item);
  });
}

/** Write what a card says; its grids are painted when it is in sight. */
function updateCard(card, now, then) {
  const { cls, values } = now;
  const [glyph, label] = CLASSES[cls];
  const task = data.tasks[card.place];
  card.badge.textContent = glyph;
  card.item.className = cls;
  const value = formatSort(state.sort, values[state.sort]);
  card.value.textContent = value;
  const change = changesOf(now, then).find((name) => name !== "moved");
  card.change.textContent = change ? CHANGES[change][0] : "";
  card.change.className = "change " + (change ?? "");
  const [outputs, i] = [data.runs[state.run].tasks[card.place], leading(now)];
  card.strip.style.background = votesGradient(outputs[i], now.outs[i]);
  card.link.href = addressOf({ ...state, task: taskKeys[card.place], open: "" });
  card.link.setAttribute("aria-label",
    `${task.id}: ${label}${change ? ", " + CHANGES[change][1] : ""}${value ? `, ${sortLabel(state.sort)} ${value}` : ""}`);
  card.first = now.outs[i].order[0]?.[GRID];
  card.question = task.test[i][0];
  if (card.seen) paint(card);
}

/** The output of a task that its class is of. */
const leading = (task) => task.outs.findIndex((o) => o.cls === task.cls);

function paint(card) {
  const wanted = [state.palette, card.question, card.first, window.devicePixelRatio].join(" ");
  if (!card.question || wanted === card.painted) return;
  card.painted = wanted;
  const cell = thumb([card.question, card.first]);
  draw(card.input, card.question, cell);
  card.answer.hidden = !card.first;
  card.empty.hidden = !!card.first;
  if (card.first) draw(card.answer, card.first, cell);
}

const thumb = (texts) => Math.min(14, 62 / longest(texts));

/** The votes of an output as one background: candidates by rank, then what is no grid. */
function votesGradient(output, judgedOutput) {
  const parts = judgedOutput.order.filter((c) => c[VOTES])
    .map((c, i) => [c === judgedOutput.right ? "var(--solved)" : `var(--vote${i % 2})`, c[VOTES]]);
  parts.push(["var(--vote2)", output.rest[1]], ["var(--faint)", output.bad[0]]);
  let at = 0;
  const stops = parts.filter(([, n]) => n).flatMap(([color, n]) => {
    const from = at;
    at += (100 * n) / output.n;
    return [`${color} ${from.toFixed(2)}% ${at.toFixed(2)}%`];
  });
  return stops.length ? `linear-gradient(to right, ${stops.join(", ")})` : "var(--faint)";
}

function renderList() {
  const started = performance.now();
  const base = baseline();
  const now = judge(state.run, state.by);
  const then = base && judge(base.run, base.method);
  const wanted = state.q.trim().toLowerCase();
  const found = [...data.tasks.keys()].filter((i) =>
    now[i] && (!wanted || data.tasks[i].id.toLowerCase().includes(wanted)));
  const changes = new Map(found.map((i) => [i, then ? changesOf(now[i], then[i]) : []]));
  const isIn = (name, i) => name === "all" || now[i].cls === name || changes.get(i).includes(name);
  renderFilters(Object.fromEntries(["all", ...Object.keys(CLASSES), ...Object.keys(CHANGES)].map((name) =>
    [name, found.filter((i) => isIn(name, i)).length])), base, now);

  const sign = state.up ? 1 : -1;
  listed = found.filter((i) => isIn(state.show, i)).sort((a, b) => {
    const [x, y] = [now[a].values[state.sort], now[b].values[state.sort]];
    if (x == null || y == null) return (x == null) - (y == null) || a - b;
    return sign * (x > y ? 1 : x < y ? -1 : 0) || a - b;
  });
  for (const i of listed) updateCard(cards[i], now[i], then && then[i]);
  const items = listed.map((i) => cards[i].item);
  if (!items.length) items.push(el("li", { class: "nothing" }, "No task is left. ",
    el("button", { onclick: () => set({ show: "all", q: "" }) }, "Show all")));
  const walking = document.activeElement?.closest("#cards");
  $("cards").replaceChildren(...items);
  if (listed.length && !(walking && listed.includes(focused))) focused = listed[0];
  cards.forEach((card, i) => (card.link.tabIndex = i === focused ? 0 : -1));
  if (walking && listed.length) cards[focused].link.focus({ preventScroll: true });
  $("status").textContent = state.task ? "" :
    `${count(listed.length, "task")}, ${sortLabel(state.sort)}, ${state.up ? "lowest" : "highest"} first` +
    (base ? `; against ${nameOf(base)}` : "");
  document.documentElement.dataset.sortMs = (performance.now() - started).toFixed(1);
}

const sortLabel = (sort) => OTHER_SORTS[sort]?.[0] ?? sort;
const nameOf = (base) => (base.run !== state.run ? data.runs[base.run].name : `the selector ${base.method}`);

function renderFilters(counts, base, now) {
  const button = (name, [glyph, label, about]) => el("button", {
    "aria-pressed": String(state.show === name), class: "chip " + name, title: about, "data-show": name,
    "aria-label": `${label}: ${counts[name]}`,
    onclick: () => set({ show: state.show === name ? "all" : name }),
  }, el("i", { "aria-hidden": "true" }, glyph), el("span", {}, label), el("b", {}, String(counts[name])));
  const known = now.some((task) => task && task.cls !== "hidden" && task.cls !== "none");
  const hidden = now.some((task) => task && task.cls === "hidden");
  const classes = Object.entries(CLASSES).filter(([name]) =>
    name === "none" || (name === "hidden" ? hidden : known || !hidden));
  const chips = [button("all", ["", "All", "Every task"]), ...classes.map((entry) => button(...entry))];
  if (base) chips.push(el("span", { class: "divider" }), ...Object.entries(CHANGES)
    .filter(([name]) => name === "moved" || known).map((entry) => button(...entry)));
  const had = document.activeElement?.dataset?.show; // the keyboard stays where it was
  $("filters").replaceChildren(...chips);
  if (had) $("filters").querySelector(`[data-show="${had}"]`)?.focus();
}

// The demonstrations of a task under the pointer --------------------------------------------------

let peekTimer = 0;

function peekSoon(place) {
  clearTimeout(peekTimer);
  peekTimer = setTimeout(() => {
    const { train } = data.tasks[place];
    const cell = cellFor(train.flat(), 96, 12);
    $("peek").replaceChildren(...train.map(([input, output]) =>
      el("span", { class: "grids" }, picture(input, cell), el("span", { class: "arrow" }, "→"), picture(output, cell))));
    $("peek").hidden = false;
    const [card, box] = [cards[place].link.getBoundingClientRect(), $("peek").getBoundingClientRect()];
    const below = card.bottom + 8 + box.height < innerHeight;
    $("peek").style.left = Math.max(8, Math.min(card.left, innerWidth - box.width - 8)) + "px";
    $("peek").style.top = (below ? card.bottom + 8 : Math.max(8, card.top - box.height - 8)) + "px";
  }, 250);
}

function hidePeek() {
  clearTimeout(peekTimer);
  $("peek").hidden = true;
}

// Drawing the head --------------------------------------------------------------------------------

function renderHead() {
  const run = data.runs[state.run];
  const rows = Object.fromEntries(run.metrics[state.by].map(([name, ...rest]) => [name, rest]));
  const base = baseline();
  const other = base && Object.fromEntries(data.runs[base.run].metrics[base.method].map((row) => [row[0], row]));
  $("lead").textContent = run.notes[0] ?? run.name;
  const shown = [["vote_2", "solved by two attempts"], ["pass_n", "have the right grid in the pool"],
    ["agreement", "agree with the first candidate"], ["unanswered", "hold no grid"]];
  $("hero").replaceChildren(...shown.filter(([name]) => rows[name]).slice(0, 2).map(([name, text]) => {
    const [value, low, high] = rows[name];
    const gain = other?.[name] && value - other[name][1];
    return el("div", { class: "number" }, el("strong", {}, percent(value)),
      gain ? el("em", { class: gain > 0 === (name !== "unanswered") ? "gained" : "lost" }, `${gain > 0 ? "+" : "−"}${Math.abs(100 * gain).toFixed(1)}`) : null,
      el("span", {}, text), el("small", {}, `95% interval ${percent(low)} – ${percent(high)}`));
  }), el("details", { class: "notes", open: isWide() }, el("summary", {}, "About these numbers"), el("ul", {}, [...run.notes.slice(1), ...run.limits, `Each value is the ${run.average}.`,
    data.methods.find(([name]) => name === state.by)[1] && `${state.by}: ${data.methods.find(([name]) => name === state.by)[1]}`]
    .filter(Boolean).map((note) => el("li", {}, note)))));

  const lines = Object.entries(rows).map(([name, [value, low, high, about]]) => {
    const strip = el("span", { class: "interval" });
    const mark = (cls, at) => {
      const dot = el("i", { class: cls });
      dot.style.left = 100 * at + "%";
      strip.append(dot);
      return dot;
    };
    if (low != null) mark("range", low).style.width = 100 * (high - low) + "%";
    if (other?.[name]?.[1] != null) mark("then", other[name][1]);
    if (value != null) mark("dot", value);
    const sortable = sortNames().includes(name);
    const label = sortable
      ? el("button", { "aria-pressed": String(state.sort === name), title: "Sort the tasks by it", onclick: () => set({ sort: name, task: "" }) }, name)
      : name;
    return el("tr", { title: about }, el("th", { scope: "row" }, label), el("td", {}, strip),
      el("td", { class: "figure" }, percent(value)),
      el("td", { class: "figure dim" }, low == null ? "–" : `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)}`));
  });
  $("metrics-title").textContent = base ? `Metrics; hollow: ${nameOf(base)}` : "Metrics";
  $("metrics").replaceChildren(
    el("thead", { class: "unseen" },
      el("tr", {}, ["metric", "interval", "value", "95% interval"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, lines));
  drawCurve();
}

const isWide = () => innerWidth > 780;

function drawCurve() {
  const { curves } = data.runs[state.run];
  $("more").hidden = !curves;
  $("overview").classList.toggle("no-curve", !curves);
  if (!curves || !$("curve").clientWidth) return;
  const [width, height] = [$("curve").clientWidth, 236];
  const [left, right, top, bottom] = [34, 108, 10, 26];
  const names = Object.keys(curves);
  const most = Math.max(2, ...curves[names[0]].map(([n]) => n));
  const high = Math.max(0.05, ...names.flatMap((name) => curves[name].map((point) => point[3] ?? 0)));
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25].find((size) => high / size <= 5) ?? 0.25;
  const ceiling = Math.min(1, Math.ceil(high / step) * step);
  const x = (n) => left + (Math.log2(n) / Math.log2(most)) * (width - left - right);
  const y = (value) => top + (1 - value / ceiling) * (height - top - bottom);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": "Metrics by the number of predictions of an output" });
  for (let value = 0; value <= ceiling + 1e-9; value += step) {
    chart.append(svg("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, Math.round(100 * value) + "%"));
  }
  let last = -Infinity;
  for (const [n] of curves[names[0]]) {
    if (x(n) - last < 26) continue;
    last = x(n);
    chart.append(svg("text", { x: x(n), y: height - 8, "text-anchor": "middle" }, n));
  }
  const ends = [];
  names.forEach((name, i) => {
    const points = curves[name].filter((point) => point[1] != null);
    if (!points.length) return;
    const path = (at, list) => list.map((point) => `${x(point[0]).toFixed(1)} ${y(point[at]).toFixed(1)}`).join(" L ");
    chart.append(svg("path", { class: `band line${i}`, d: `M ${path(3, points)} L ${path(2, [...points].reverse())} Z` }),
      svg("path", { class: `stroke line${i}`, d: `M ${path(1, points)}` }));
    for (const [n, value, low, top] of points) {
      chart.append(svg("circle", { class: `dot line${i}`, cx: x(n), cy: y(value), r: 3 },
        svg("title", {}, `${name} of ${n}: ${percent(value)} (${percent(low)} – ${percent(top)})`)));
    }
    const end = points.at(-1)[1];
    ends.push({ at: y(end), text: `${name} ${percent(end)}`, i });
  });
  ends.sort((a, b) => a.at - b.at).forEach((end, k) => {
    end.at = Math.max(end.at, k ? ends[k - 1].at + 14 : 0);
    chart.append(svg("text", { class: `end line${end.i}`, x: width - right + 8, y: end.at + 4 }, end.text));
  });
  $("curve").replaceChildren(chart);
}

// Drawing a task ----------------------------------------------------------------------------------

function renderTask() {
  const place = taskKeys.indexOf(state.task);
  const task = data.tasks[place];
  const base = baseline();
  const sides = [{ run: state.run, method: state.by }];
  if (base && base.run !== state.run) sides.unshift(base);
  const now = judge(state.run, state.by)[place];
  const at = listed.indexOf(place);
  $("crumb").textContent = task.id;
  $("badge").className = "tagged " + (now?.cls ?? "");
  const [glyph, label] = now ? CLASSES[now.cls] : ["–", "not asked"];
  $("badge").replaceChildren(glyph, el("span", { class: "word" }, ` ${label}`));
  $("place").textContent = at < 0 ? "" : `${at + 1} of ${listed.length}`;
  const cell = cellFor(task.train.flat(), innerWidth < 600 ? 118 : 170);
  const demonstrations = el("section", {}, el("h2", {}, "Demonstrations"), el("div", { class: "pairs" },
    task.train.map(([input, output], i) => el("div", { class: "grids", role: "group", "aria-label": `demonstration ${i + 1}` },
      shaped(input, cell, "input"), el("span", { class: "arrow" }, "→"), shaped(output, cell, "output")))));
  const tests = task.test.map(([input, solution], i) => renderTest(place, i, input, solution, sides, base, cell));
  $("task").replaceChildren(demonstrations, ...tests);
}

/** A grid over its shape, height first. */
function shaped(text, cell, label, options = {}) {
  const rows = text && parseGrid(text);
  return el("figure", {}, picture(text, cell, { label, numbers: state.numbers, ...options }),
    el("figcaption", {}, rows ? `${rows.length}×${rows[0].length}` : "hidden"));
}

function renderTest(place, test, input, solution, sides, base, cell) {
  const several = data.tasks[place].test.length > 1;
  const own = cellFor([input, solution], innerWidth < 600 ? 130 : 190);
  return el("section", { class: "test" },
    el("div", { class: "question" }, el("h2", {}, several ? `Test ${test + 1}` : "Test"),
      el("div", { class: "grids" }, shaped(input, own, "test input"), el("span", { class: "arrow" }, "→"),
        shaped(solution, own, "solution"))),
    el("div", { class: sides.length > 1 ? "sides two" : "sides" },
      sides.map((side) => renderSide(place, test, solution, side, base))));
}

function renderSide(place, test, solution, side, base) {
  const output = data.runs[side.run].tasks[place]?.[test];
  const heading = data.runs.length > 1 && el("h3", {}, data.runs[side.run].name);
  if (!output) return el("div", { class: "side" }, heading, el("p", { class: "dim" }, "This store was not asked about the task."));
  const now = judge(side.run, side.method)[place].outs[test];
  const before = base && base.run === side.run && judge(base.run, base.method)[place].outs[test];
  const [n, bad] = [output.n, output.bad[0]];
  const total = output.c.filter(isWritten).length + output.rest[0];
  const strip = el("span", { class: "strip wide", role: "img", "aria-label": "votes of the candidates" });
  strip.style.background = votesGradient(output, now);
  const facts = [count(n, "prediction"), count(total, "candidate"), bad && `${bad} without a grid`,
    output.entropy != null && `entropy ${output.entropy.toFixed(2)} bits`].filter(Boolean).join(" · ");
  const verdict = el("p", { class: "verdict " + now.cls }, CLASSES[now.cls].slice(0, 2).join(" ") +
    (now.cls === "missed" ? `: rank ${now.rank || "none"} by ${side.method}` : ""), el("span", { class: "dim" }, ` ${facts}`));
  const list = el("div", { class: "candidates" });
  const box = Math.min(150, innerWidth / 2 - 52);
  const cell = cellFor(now.order.slice(0, FIRST_SHOWN).map((c) => c[GRID]), box, 30);
  list.style.setProperty("--box", Math.max(box, cell * longest(now.order.slice(0, FIRST_SHOWN).map((c) => c[GRID]))) + 26 + "px");
  const fill = (all) => {
    const chosen = now.order.filter((c, i) => all || i < FIRST_SHOWN || c === now.right || state.open === openKey(test, side, output, c));
    list.replaceChildren(...chosen.map((c) => renderCandidate(c, { test, side, output, now, before, solution, cell })).flat(),
      ...(bad ? renderInvalid(test, side, output) : []));
    if (chosen.length < now.order.length)
      list.append(el("button", { class: "wide", onclick: () => fill(true) }, `Show all ${now.order.length}`));
    if (output.rest[0])
      list.append(el("p", { class: "dim wide" }, `and ${count(output.rest[0], "other candidate")} with ${count(output.rest[1], "vote")}`));
  };
  fill(false);
  if (!now.order.length && !bad) list.append(el("p", { class: "dim wide" }, "No predictions."));
  return el("div", { class: "side" }, heading, verdict, strip, list);
}

const openKey = (test, side, output, c) => `${test}.${side.run}.${c ? output.c.indexOf(c) : "x"}`;

function opener(key, cls, label, ...children) {
  return el("button", {
    class: "candidate " + cls, "aria-expanded": String(state.open === key), "data-open": key, "aria-label": label,
    onclick: () => set({ open: state.open === key ? "" : key }),
  }, ...children);
}

function renderCandidate(c, { test, side, output, now, before, solution, cell }) {
  const place = data.methods.findIndex(([name]) => name === side.method);
  const [key, rank, right] = [openKey(test, side, output, c), c[RANKS][place], solution && c[GRID] === solution];
  const differ = solution && !right ? differences(c[GRID], solution) : null;
  const rows = parseGrid(c[GRID]);
  const note = !solution ? "" : right ? "right" : differ ? `${count(differ.length, "cell")} differ${differ.length === 1 ? "s" : ""}` : "other shape";
  const beforeRank = before && c[RANKS][data.methods.findIndex(([name]) => name === baseline().method)];
  const moved = before && (beforeRank ? beforeRank - rank : null);
  const [gave, asked] = [bits(c[SYMMETRIES]), bits(output.seen)];
  const bar = el("span", { class: "share" }, el("i"));
  bar.firstChild.style.width = (100 * c[VOTES]) / (output.n || 1) + "%";
  const button = opener(key, (right ? "right" : solution ? "wrong" : "") + (rank <= 2 ? " chosen" : ""),
    `Candidate ${rank}, ${count(c[VOTES], "vote")}, ${note || "solution hidden"}`,
    el("span", { class: "line" }, el("b", {}, `#${rank}`),
      moved ? el("em", { class: moved > 0 ? "gained" : "lost", title: `rank ${beforeRank} by ${baseline().method}` }, `${moved > 0 ? "▲" : "▼"}${Math.abs(moved)}`)
        : before && !beforeRank ? el("em", { class: "dim" }, "new") : null,
      el("span", { class: "mark" }, solution ? (right ? "✓" : "✕") : "")),
    el("span", { class: "box" }, picture(c[GRID], cell, {
      label: `candidate ${rank}`, numbers: state.numbers, marks: state.marks && differ ? differ : [] })),
    el("span", { class: "line small" }, el("span", {}, `${rows.length}×${rows[0].length}`), el("span", { class: "note" }, note)),
    bar,
    el("span", { class: "line small" }, el("b", {}, isWritten(c) ? count(c[VOTES], "vote") : "composed"),
      el("span", { class: "dim", title: "mean log-probability of a token" }, `${nats(c[MEAN])}/token`)),
    el("span", { class: "line small dim" }, asked ? el("span", { title: "symmetries (flip and quarter turns) of which a view gave it" }, `${gave} of ${count(asked, "symmetry", "symmetries")}`) : el("span"),
      el("span", { title: "log-probability of its likeliest reply" }, `${nats(c[LIKELIEST])} nats`)));
  if (state.open !== key) return [button];
  return [button, renderPredictions(c[PREDICTIONS], c[LEFT_OUT], c[GRID])];
}

const bits = (number) => number.toString(2).replaceAll("0", "").length;

function renderInvalid(test, side, output) {
  const [n, predictions] = output.bad;
  const key = openKey(test, side, output, null);
  const kinds = [...new Set(predictions.map((p) => p[4]))].join(", ");
  const button = opener(key, "invalid", `${n} without a grid: ${kinds}`,
    el("span", { class: "line" }, el("b", {}, "no grid"), el("span", { class: "mark" }, "∅")),
    el("span", { class: "box" }, el("span", { class: "unknown" }, "∅")),
    el("span", { class: "line small" }, kinds), el("span", { class: "line small" }, el("b", {}, count(n, "prediction"))));
  return state.open === key ? [button, renderPredictions(predictions, n - predictions.length, null)] : [button];
}

/** The predictions of a candidate: what view each had, how likely the reply was, its text. */
function renderPredictions(predictions, leftOut, grid) {
  const rows = predictions.map(([key, sample, logprob, tokens, status, text], i) => {
    const view = parseKey(key);
    const said = [grid ? "ok" : status, sample > 0 && `sample ${sample}`, logprob != null && `${nats(logprob)} nats`, tokens != null && count(tokens, "token")];
    const body = el("div", { class: "reply" });
    const fill = () => body.childNodes.length || body.append(
      grid || !Object.hasOwn(data.statuses, status) ? "" : el("p", {}, data.statuses[status]),
      el("p", {}, "View ", el("code", {}, key ?? "unknown")),
      text == null ? el("p", { class: "dim" }, "No text.") : el("pre", { tabindex: "0", "aria-label": "the reply as the model wrote it" }, text));
    const details = el("details", { ontoggle: () => details.open && fill() },
      el("summary", {}, grid && view ? el("span", { class: "tiny" }, picture(applyKey(grid, view), Math.min(8, 40 / longest([grid])), { label: "as the view shows it" })) : null,
        el("span", { class: "what" }, view ? viewLabel(view) : key, el("span", { class: "dim" }, said.filter(Boolean).join(" · ")))), body);
    if (i === 0) {
      details.open = true;
      fill();
    }
    return el("li", {}, details);
  });
  return el("div", { class: "predictions wide", role: "region", "aria-label": "predictions" },
    el("ol", {}, rows), leftOut > 0 && predictions.length
      ? el("p", { class: "dim" }, `and ${count(leftOut, "other prediction")} that are not listed`) : null,
    predictions.length ? null : el("p", { class: "dim" }, leftOut > 0 ? `${count(leftOut, "prediction")}, none of them listed` : "No model wrote this grid: the vote by cells composed it."));
}

function viewLabel({ flip, turns, colors, order }) {
  const palette = data.palettes[state.palette];
  const swatches = el("span", { class: "swatches", title: `colours ${colors}` }, Array.from(colors, (color) => {
    const swatch = el("i");
    swatch.style.background = palette[color];
    return swatch;
  }));
  const symmetry = [flip && "flipped", turns && `turned ${90 * turns}°`].filter(Boolean).join(", ") || "as it is";
  return el("span", { class: "view" }, el("b", {}, symmetry), swatches, order ? el("span", { class: "dim" }, `order ${order}`) : null);
}

// All of it ---------------------------------------------------------------------------------------

let focused = -1; // place of the task that the keyboard is on
let scroll = 0; // of the list, while a task is open

function fillSelect(id, groups, value) {
  const options = (list) => list.map(([name, label]) => el("option", { value: name }, label));
  $(id).replaceChildren(...groups.flatMap(([label, list]) => (label ? [el("optgroup", { label }, ...options(list))] : options(list))));
  $(id).value = value;
}

function renderControls() {
  const metrics = sortNames().filter((name) => !(name in OTHER_SORTS));
  fillSelect("sort", [["Metrics", metrics.map((name) => [name, name])],
    ["Votes and tasks", Object.entries(OTHER_SORTS).map(([name, [label]]) => [name, label])]], state.sort);
  fillSelect("by", [["", data.methods.map(([name]) => [name, name])]], state.by);
  fillSelect("run", [["", data.runs.map((run, i) => [String(i), run.name])]], String(state.run));
  fillSelect("vs", [["", [["off", "nothing"]]],
    ...(data.runs.length > 1 ? [["Store", data.runs.map((run, i) => ["r" + i, run.name]).filter((_, i) => i !== state.run)]] : []),
    ["Selector", data.methods.map(([name]) => ["m" + name, name]).filter(([name]) => name !== "m" + state.by)]],
  baseline()?.vs ?? "off");
  $("stores").hidden = data.runs.length < 2;
  $("direction").textContent = state.up ? "↑ lowest first" : "↓ highest first";
  $("direction").title = "Reverse the order (S)";
  if ($("search").value !== state.q) $("search").value = state.q;
  $("palette").setAttribute("aria-pressed", String(state.palette !== "arc"));
  $("numbers").setAttribute("aria-pressed", String(state.numbers));
  $("palette").querySelector(".swatches").replaceChildren(...[1, 2, 3, 4].map((color) => {
    const swatch = el("i");
    swatch.style.background = data.palettes[state.palette][color];
    return swatch;
  }));
  $("theme").querySelector(".word").textContent = state.theme || "auto";
  const root = document.documentElement.dataset;
  [root.theme, root.palette] = [state.theme, state.palette];
}

function render(before = {}) {
  hidePeek();
  const opening = state.task && !before.task;
  if (opening) scroll = window.scrollY;
  document.body.classList.toggle("task", !!state.task);
  const changed = (...names) => names.some((name) => state[name] !== before[name]);
  renderControls();
  if (changed("run", "by", "vs", "show", "q", "sort", "up", "palette", "numbers", "marks", "theme", "task")) {
    renderList();
    if (!state.task) renderHead();
  }
  $("task").hidden = !state.task;
  $("cards").hidden = !!state.task;
  if (state.task) {
    const opened = state.open !== before.open && state.task === before.task;
    renderTask();
    if (opened) $("task").querySelector(`[data-open="${CSS.escape(state.open || before.open)}"]`)?.focus({ preventScroll: true });
    if (state.task !== before.task) {
      window.scrollTo(0, 0);
      $("task").focus({ preventScroll: true });
    }
    if (state.open) $("task").querySelector(".predictions")?.scrollIntoView({ block: "nearest" });
    document.title = `${data.tasks[taskKeys.indexOf(state.task)].id} · ${data.title}`;
  } else {
    if (before.task) {
      focused = taskKeys.indexOf(before.task);
      cards.forEach((card, i) => (card.link.tabIndex = i === focused ? 0 : -1));
      cards[focused]?.link.focus({ preventScroll: true });
      window.scrollTo(0, scroll);
    }
    document.title = data.title;
  }
}

const next = (list, item, step = 1) => list[(list.indexOf(item) + step + list.length) % list.length];

function step(by) {
  const at = listed.indexOf(taskKeys.indexOf(state.task)); // -1: the task is not listed
  if (listed.length) set({ task: taskKeys[listed.at((at < 0 && by < 0 ? by : at + by) % listed.length)], open: "" });
}

/** Move the keyboard among the cards, by rows and columns as they lie. */
function walk(key) {
  const at = Math.max(0, listed.indexOf(focused));
  const top = (i) => cards[listed[i]].item.offsetTop;
  let columns = 1;
  while (columns < listed.length && top(columns) === top(0)) columns++;
  const there = at + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const isInside = document.activeElement?.closest("#cards");
  const to = !isInside ? at : there < 0 || there >= listed.length ? at : there;
  cards[focused].link.tabIndex = -1;
  focused = listed[to];
  cards[focused].link.tabIndex = 0;
  cards[focused].link.focus();
}

function onKey(event) {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.key === "Escape" && !$("help").open) {
    if (typing) event.target.blur();
    else if (state.open) set({ open: "" });
    else if (state.task) set({ task: "" });
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "/": () => { if (state.task) set({ task: "", open: "" }); $("search").focus(); $("search").select(); },
    s: () => set({ sort: next(sortNames(), state.sort) }),
    S: () => set({ up: !state.up }),
    v: () => set({ by: next(data.methods.map(([name]) => name), state.by) }),
    c: () => set({ palette: next(Object.keys(data.palettes), state.palette) }),
    n: () => set({ numbers: !state.numbers }),
    d: () => set({ marks: !state.marks }),
    t: () => set({ theme: next(THEMES, state.theme) }),
    "?": () => $("help").showModal(),
  };
  if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  } else if (state.task && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    event.preventDefault();
    step(event.key === "ArrowLeft" ? -1 : 1);
  } else if (!state.task && event.key.startsWith("Arrow") && listed.length) {
    event.preventDefault();
    walk(event.key);
  }
}

function connect() {
  $("title").textContent = data.title;
  $("keys").append(...KEYS.flatMap(([keys, text]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, text)]));
  $("foot").textContent = `${count(data.tasks.length, "task")}, made by arc_airv. This file holds all it shows, and asks no network.`;
  $("search").addEventListener("input", () => set({ q: $("search").value }));
  for (const id of ["sort", "by", "vs"]) $(id).addEventListener("change", () => set({ [id]: $(id).value }));
  $("run").addEventListener("change", () => set({ run: +$("run").value, vs: "", open: "" }));
  const clicks = {
    direction: () => set({ up: !state.up }),
    palette: () => set({ palette: next(Object.keys(data.palettes), state.palette) }),
    numbers: () => set({ numbers: !state.numbers }),
    theme: () => set({ theme: next(THEMES, state.theme) }),
    ask: () => $("help").showModal(),
    back: () => set({ task: "", open: "" }),
    previous: () => step(-1),
    next: () => step(1),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const panel of document.querySelectorAll(".panel")) panel.open = isWide();
  $("more").addEventListener("toggle", drawCurve);
  document.addEventListener("keydown", onKey);
  window.addEventListener("scroll", hidePeek, { passive: true });
  window.addEventListener("hashchange", () => {
    const before = state;
    state = readAddress();
    if (addressOf(before) !== addressOf(state)) render(before);
  });
  window.addEventListener("beforeprint", () => listed.forEach((i) => paint(cards[i])));
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    if (state.task) renderTask();
    else drawCurve();
  });
}

async function start() {
  data = await readData();
  // An address holds what UTF-8 can, so an id with half a character is replaced there.
  taskKeys = data.tasks.map((task) => new URLSearchParams([["", task.id]]).toString().slice(1))
    .map((text) => new URLSearchParams("=" + text).get(""));
  $("page").hidden = false;
  makeCards();
  connect();
  state = readAddress();
  render();
  document.documentElement.dataset.openMs = performance.now().toFixed(0);
}

start().catch((error) => {
  $("fault").textContent = `This page cannot be shown: ${error.message}. It needs a browser of 2024 or later.`;
  $("fault").hidden = false;
  throw error;
});
