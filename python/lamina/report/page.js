"use strict";
/* Draws what page.py has put into #data. Text reaches the page as text nodes only; plotly's labels come escaped. */
(async () => {
  const $ = (id) => document.getElementById(id);
  const el = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  // What is inside the page.

  async function unpack(id) {
    const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
    $(id).remove();
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  const report = JSON.parse(await unpack("data"));
  const library = el("script", await unpack("plotly"));
  document.head.append(library);
  library.remove();
  const { versions, scale } = report;

  // heat.py: logarithms in thousandths, and four codes.
  const NONE = 32767, INFINITE = 32766, NOT_A_NUMBER = 32765, STILL = -32768;
  for (const view of report.views) {
    const bytes = Uint8Array.from(atob(view.codes), (c) => c.charCodeAt(0));
    const data = new DataView(bytes.buffer);
    view.codes = Int16Array.from({ length: bytes.length / 2 }, (_, i) => data.getInt16(2 * i, true));
    view.row = (i) => view.codes.subarray(i * versions.length, (i + 1) * versions.length);
  }

  // Numbers for people.

  const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
  function size(bytes) {
    if (bytes === null || bytes === undefined) return "–";
    let unit = 0;
    while (bytes >= 999.5 && unit < UNITS.length - 1) { bytes /= 1000; unit += 1; }
    return `${unit ? Number(bytes.toPrecision(3)) : bytes} ${UNITS[unit]}`;
  }
  function seconds(value) {
    if (value === null || value === undefined) return "–";
    if (value < 1) return `${Number((value * 1000).toPrecision(3))} ms`;
    return value < 120 ? `${Number(value.toPrecision(3))} s` : `${Number((value / 60).toPrecision(3))} min`;
  }
  const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : value ?? "–");
  function percent(code) {
    const value = 100 * 10 ** (code / 1000);
    return `${value >= 1e-4 ? Number(value.toPrecision(3)) : value.toExponential(1)} %`;
  }
  function moved(code) {
    if (code === NONE) return "no distance: new, or of another form";
    if (code === STILL) return "did not move";
    if (code === NOT_A_NUMBER) return "the distance is not a number";
    return code === INFINITE ? "moved from all zeros" : `moved by ${percent(code)}`;
  }
  const name = (v) => `version ${v.number ?? 1}`;
  const when = (v) => (v.created_at ? `${v.created_at.slice(0, 19).replace("T", " ")} UTC` : "–");
  const moment = (v) => (v.epoch === null ? "–" : v.batch === null ? `${v.epoch}` : `${v.epoch}, batch ${v.batch}`);
  const sum = (field) => versions.reduce((all, v) => all + (v[field] ?? 0), 0);
  const known = (field) => versions.some((v) => v[field] !== null);

  // Summary.

  function tile(value, text, kind) {
    const made = el("div", undefined, `tile ${kind ?? ""}`);
    made.append(el("b", value), el("span", text));
    $("tiles").append(made);
  }
  function tiles() {
    tile(String(versions.length), `${versions.length === 1 ? "version" : "versions"}, ${report.tensors} tensors`);
    const best = report.best === null ? null : versions[report.best];
    if (best && best.value !== null) {
      tile(`★ ${number(best.value)}`, `best ${best.monitor ?? "value"}, in ${name(best)}`, "best");
    }
    tile(size(versions.at(-1).bytes_total), "the newest version");
    if (known("bytes_stored")) {
      const total = sum("bytes_total"), stored = sum("bytes_stored");
      tile(size(stored), `stored for ${size(total)} of versions`);
      if (stored && total / stored >= 1.05) tile(`${Number((total / stored).toPrecision(3))}×`, "less than plain files");
    }
    if (known("blocked_seconds")) {
      const worst = Math.max(...versions.map((v) => v.blocked_seconds ?? 0));
      tile(seconds(sum("blocked_seconds")), versions.length === 1 ? "training waited" : `training waited in all; at most ${seconds(worst)} for one`);
    }
    if (known("upload_seconds")) tile(seconds(sum("upload_seconds")), "of uploads");
  }
  function notes() {
    $("notes").hidden = !report.notes.length;
    for (const note of report.notes) $("notes").querySelector("ul").append(el("li", note));
  }
  function legend() {
    const shown = [["strong", "stored"], ["accent", "new, not compressed"], ["dotted", "total"]];
    const named = known("bytes_stored") ? shown : shown.slice(2);
    if (report.best !== null && versions[report.best].value !== null) {
      const star = el("span", "★ best");
      star.style.color = "var(--best)";
      $("legend").append(star);
    }
    for (const [colour, text] of named) {
      const item = el("span"), mark = el("i", undefined, colour);
      if (colour !== "dotted") mark.style.background = `var(--${colour})`;
      item.append(mark, text);
      $("legend").append(item);
    }
  }
  function table() {
    const columns = [
      ["version", (v) => v.number ?? 1], ["saved", when], ["epoch", moment], ["value", (v) => number(v.value)],
      ["total", (v) => size(v.bytes_total)], ["new", (v) => size(v.bytes_new)], ["stored", (v) => size(v.bytes_stored)],
      ["blocked", (v) => seconds(v.blocked_seconds)], ["upload", (v) => seconds(v.upload_seconds)],
      ["aliases", (v) => v.aliases.join(", ")],
    ];
    const head = el("tr");
    for (const [title] of columns) head.append(el("th", title));
    $("table").append(head);
    versions.forEach((v, i) => {
      const row = el("tr", undefined, i === report.best ? "best" : "");
      for (const [, value] of columns) row.append(el("td", value(v)));
      $("table").append(row);
    });
  }

  // Charts.

  const asked = window.matchMedia("(prefers-color-scheme: dark)");
  let theme = asked.matches ? "dark" : "light";
  let view = report.views[0];
  let chosen = versions.length - 1;
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  const ticks = () => (document.body.clientWidth < 600 ? 6 : 14);
  const marker = () => [{
    type: "line", xref: "x", yref: "paper", x0: chosen, x1: chosen, y0: 0, y1: 1,
    line: { color: report.colours[theme].text, width: 1.5, dash: "dot" },
  }];

  async function draw() {
    document.documentElement.dataset.theme = theme;
    const figures = report.figures[theme];
    const ids = ["timeline", "size", "dedup", "compression"];
    // All of them first: the room that one has depends on which others are there.
    for (const id of ids) $(id).closest(".card").hidden = !figures[id] || (id === "timeline" && versions.length === 1);
    const drawn = ids.filter((id) => !$(id).closest(".card").hidden).map((id) => {
      const layout = structuredClone(figures[id].layout);
      if (id === "timeline") {
        layout.shapes = marker();
        layout.xaxis.nticks = ticks();
        layout.xaxis.unifiedhovertitle = { text: "version %{x}" };
      }
      return Plotly.react($(id), figures[id].data, layout, config);
    });
    await Promise.all([...drawn, drawMovement()]);
  }

  // plotly stretches an axis without numbers over what is left; rows keep a height that can be read.
  const heightOf = (rows) => Math.min(Math.max(rows * 18, 90), 620);
  const letters = () => ($("movement").clientWidth < 600 ? 18 : 44);
  function short(text) {
    const most = letters(), half = Math.floor((most - 1) / 2);
    return text.length <= most ? text : `${text.slice(0, half)}…${text.slice(-half)}`;
  }
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  function rowLabels(from, to) {
    const first = Math.max(0, Math.ceil(Math.min(from, to))), last = Math.min(view.names.length - 1, Math.max(from, to));
    const step = Math.max(1, Math.ceil(((last - first + 1) * 15) / heightOf(view.names.length)));
    const tickvals = [];
    for (let i = first; i <= last; i += step) tickvals.push(i);
    return { tickvals, ticktext: tickvals.map((i) => escaped(short(view.names[i]))) };
  }
  function colour(code) {
    if (code === NONE || code === NOT_A_NUMBER) return NaN;
    if (code === STILL) return scale.still;
    return code === INFINITE ? scale.high : Math.min(Math.max(code / 1000, scale.low), scale.high);
  }

  async function drawMovement() {
    const there = versions.length > 1 && view.names.length && report.distances;
    $("movement").closest(".card").hidden = !there;
    if (!there) return;
    const rows = view.names.map((_, i) => view.row(i));
    const figure = structuredClone(report.figures[theme].movement);
    const trace = { ...figure.data[0], z: rows.map((row) => Float32Array.from(row, colour)), y: rows.map((_, i) => i) };
    trace.ygap = rows.length <= 60 ? 1 : 0;
    const traces = [trace];
    if (view.codes.includes(NOT_A_NUMBER)) {
      const red = report.colours[theme].damaged;
      const z = rows.map((row) => Float32Array.from(row, (code) => (code === NOT_A_NUMBER ? 1 : NaN)));
      traces.push({ ...trace, z, colorscale: [[0, red], [1, red]], zmin: 0, zmax: 1, showscale: false });
    }
    const { layout } = figure;
    layout.height = heightOf(rows.length) + 60;
    layout.shapes = marker();
    layout.xaxis.nticks = ticks();
    if (report.best !== null) {
      layout.margin.t = 20;
      layout.annotations = [{
        text: "★", x: report.best, xref: "x", y: 1, yref: "paper", yanchor: "bottom", showarrow: false,
        font: { color: report.colours[theme].best, size: 13 }, hovertext: "best",
      }];
    }
    const range = [rows.length - 0.5, -0.5];
    layout.yaxis = { ...layout.yaxis, type: "linear", autorange: false, range, zeroline: false, ...rowLabels(...range) };
    await Plotly.react($("movement"), traces, layout, config);
  }

  function viewButtons() {
    if (report.views.length < 2) return;
    for (const one of report.views) {
      const button = el("button", one.title);
      button.type = "button";
      button.addEventListener("click", () => { view = one; pressed(); drawMovement(); });
      $("views").append(button);
    }
    pressed();
  }
  function pressed() {
    [...$("views").children].forEach((button, i) => button.setAttribute("aria-pressed", report.views[i] === view));
  }

  // The version that is looked at.

  function fact(title, value, kind) {
    const made = el("div", undefined, kind);
    made.append(el("dt", title), el("dd", value));
    $("facts").append(made);
  }
  function select(index) {
    chosen = Math.min(Math.max(index, 0), versions.length - 1);
    const v = versions[chosen];
    $("slider").value = chosen;
    $("slider").setAttribute("aria-valuetext", name(v));
    $("chosen").textContent = name(v);
    $("back").disabled = chosen === 0;
    $("on").disabled = chosen === versions.length - 1;
    $("facts").replaceChildren();
    fact("saved", when(v));
    if (v.epoch !== null) fact("epoch", moment(v));
    if (v.value !== null) fact(v.monitor ?? "value", number(v.value), chosen === report.best ? "best" : "");
    fact("total", size(v.bytes_total));
    if (v.bytes_new !== null) fact("new", size(v.bytes_new));
    if (v.bytes_stored !== null) fact("stored", size(v.bytes_stored));
    if (v.blocked_seconds !== null) fact("blocked", seconds(v.blocked_seconds));
    if (v.upload_seconds !== null) fact("upload", seconds(v.upload_seconds));
    if (v.aliases.length) fact("aliases", v.aliases.join(", "));
    movers();
    for (const id of ["timeline", "movement"]) if ($(id).data) Plotly.relayout($(id), { shapes: marker() });
  }
  function movers() {
    $("moved").replaceChildren();
    if (chosen === 0 || !report.distances) return;
    const found = report.views.slice(1).flatMap((one) => one.names.map((title, i) =>
      ({ title, code: one.codes[i * versions.length + chosen], first: one === report.views[1] })));
    const order = (code) => (code === NOT_A_NUMBER ? Infinity : code === INFINITE ? 1e6 : code);
    const real = found.filter(({ code }) => code !== NONE && code !== STILL);
    const still = found.filter(({ code }) => code === STILL).length;
    const text = `${real.length} of ${real.length + still} tensors moved since ${name(versions[chosen - 1])}` +
      (real.length ? "; the most:" : ".");
    $("moved").append(el("span", text, "quiet"));
    const top = real.sort((a, b) => b.first - a.first || order(b.code) - order(a.code)).slice(0, 3);
    const width = (code) => Math.min(Math.max((code / 1000 - scale.low) / (scale.high - scale.low), 0), 1);
    for (const { title, code } of top) {
      const bar = el("i"), label = el("span", title), special = code >= NOT_A_NUMBER;
      label.title = title;
      bar.style.width = `${100 * (special ? 1 : width(code))}%`;
      $("moved").append(label, el("span", special ? moved(code) : percent(code), "amount"), bar);
    }
  }

  // Hands.

  let waiting = false;
  function soon(action) {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; action(); });
  }
  function showTip(text, at) {
    const tip = $("tip");
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(at.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    const below = at.clientY + 16 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${below ? at.clientY + 16 : at.clientY - tip.offsetHeight - 12}px`;
  }
  function listen() {
    $("slider").max = versions.length - 1;
    $("slider").parentElement.hidden = versions.length === 1;
    $("slider").addEventListener("input", () => soon(() => select(Number($("slider").value))));
    $("back").addEventListener("click", () => select(chosen - 1));
    $("on").addEventListener("click", () => select(chosen + 1));
    const turn = (to) => { theme = to; draw(); };
    $("theme").addEventListener("click", () => turn(theme === "dark" ? "light" : "dark"));
    asked.addEventListener("change", () => turn(asked.matches ? "dark" : "light"));
    $("listing").addEventListener("toggle", () => { if (!$("table").hasChildNodes()) table(); });
    if ($("timeline").on) $("timeline").on("plotly_click", (event) => select(event.points[0].pointIndex));
    if (!$("movement").on) return;
    $("movement").on("plotly_click", (event) => select(event.points[0].pointIndex[1]));
    $("movement").on("plotly_hover", (event) => {
      const [row, column] = event.points[0].pointIndex;
      const before = column ? `${name(versions[column - 1])} → ${versions[column].number ?? 1}` : name(versions[0]);
      showTip(`${view.names[row]}\n${before}: ${moved(view.row(row)[column])}`, event.event);
    });
    $("movement").on("plotly_unhover", () => { $("tip").hidden = true; });
    $("movement").on("plotly_relayout", (change) => {
      const from = change["yaxis.range[0]"] ?? change["yaxis.range"]?.[0];
      const to = change["yaxis.range[1]"] ?? change["yaxis.range"]?.[1];
      if (from === undefined) return;
      const labels = rowLabels(from, to);
      Plotly.relayout($("movement"), { "yaxis.tickvals": labels.tickvals, "yaxis.ticktext": labels.ticktext });
    });
  }

  tiles();
  notes();
  legend();
  viewButtons();
  await draw();
  listen();
  select(report.best ?? chosen);
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`;
  trouble.hidden = false;
  throw error;
});
