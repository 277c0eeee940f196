"use strict";
(() => {
  // Told apart by colour and shape together: more methods than colours that an eye can keep apart.
  const COLORS = ["#3b82c4", "#d97a2b", "#3f9e63", "#cf4a4a", "#8c6bc0", "#9a6a4f", "#c85fa6", "#7d8590", "#a8a032", "#2aa7b3"];
  const SHAPES = {  // names of Vega's, and how the legend draws them
    circle: "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0",
    square: "M-5,-5h10v10h-10z",
    "triangle-up": "M0,-6l6,11h-12z",
    diamond: "M0,-7l6,7l-6,7l-6,-7z",
    cross: "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "triangle-down": "M0,6l6,-11h-12z",
    "triangle-right": "M6,0l-11,6v-12z",
    "triangle-left": "M-6,0l11,6v-12z",
  };
  const ALL_IMAGES = 0;
  const FACETS = ["dataset", "scale", "protocol", "network", "arch"];  // of the table, which a track fixes
  const ERRORS = 1;  // an empty plot is no reason for a warning
  const rows = Site.json("rows");
  const curves = Site.json("curves");
  const spec = Site.json("spec");
  const tracks = document.querySelector("[data-track]");
  const ipcs = document.querySelector("[data-ipc]");
  const legend = document.querySelector("[data-legend]");
  const notice = document.querySelector("[data-notice]");
  const hidden = new Set((Site.parameters().get("hide") || "").split("|").filter(Boolean));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const looks = new Map();  // by track and label: there are more labels than looks, but rarely in one track
  for (const track of new Set(rows.map((row) => row.track))) {
    const labels = [...new Set(rows.filter((row) => row.track === track).map((row) => row.label))].sort();
    looks.set(track, new Map(labels.map((label, index) => [label, lookAt(index)])));
  }
  const NAME = { font: "11px", height: 13, mark: 7 };  // as the plot's specification writes names, in pixels
  const DISTANCES = [10, 16, 24, 34, 46];  // of a name from its mark
  const TURNS = [0, 0.5, -0.5, Math.PI, Math.PI - 0.5, 0.5 - Math.PI, Math.PI / 2, -Math.PI / 2];
  const pen = document.createElement("canvas").getContext("2d");
  let view = null;
  let drawn = 0;

  function lookAt(index) {
    const shapes = Object.keys(SHAPES);
    const shape = shapes[Math.floor(index / COLORS.length) % shapes.length];
    return { color: COLORS[index % COLORS.length], shape };
  }

  function lookOf(row) {
    return looks.get(row.track).get(row.label);
  }

  // Training on all images stands beside every number of images per class.
  function isHere(row) {
    return row.track === tracks.value && (String(row.ipc) === ipcs.value || row.ipc === ALL_IMAGES);
  }

  function here() {
    return rows.filter(isHere);
  }

  function fill(select, values, chosen) {
    select.replaceChildren(...values.map((value) => Site.element("option", "", value)));
    select.value = values.includes(chosen) ? chosen : values[0];
  }

  function offerIpcs(chosen) {
    const found = rows.filter((row) => row.track === tracks.value).map((row) => row.ipc);
    const offered = [...new Set(found)].filter((ipc) => ipc !== ALL_IMAGES).sort((a, b) => a - b).map(String);
    fill(ipcs, offered.length ? offered : [String(ALL_IMAGES)], chosen);
  }

  // The track that an address asks for by name, else the first that fits the table's filters.
  function start() {
    const parameters = Site.parameters();
    const facets = [...FACETS, "ipc"].filter((name) => parameters.get(name));
    const fits = (row) => facets.every((name) => String(row[name]) === parameters.get(name));
    const first = rows.find(fits) || rows[0];
    fill(tracks, [...new Set(rows.map((row) => row.track))], parameters.get("track") || (first && first.track));
    offerIpcs(parameters.get("ipc") || "");
  }

  function datum(row) {
    const given = (value) => (typeof value === "number" ? 100 * value : null);
    const seed = (row.records || [])[0];
    return {
      ...row,
      ...lookOf(row),
      accuracy: given(row.accuracy),
      low: given(row.low),
      high: given(row.high),
      href: seed ? `records/${seed.id}.html` : null,
      name: "",
      dx: 0,
      dy: 0,
    };
  }

  // Intervals of two seeds may be wider than all that the points differ by; they end where the plot does.
  function room(accuracies) {
    const least = Math.min(...accuracies);
    const most = Math.max(...accuracies);
    const more = Math.max(2, 0.3 * (most - least));
    return [Math.max(0, least - more), Math.min(100, most + more)];
  }

  function cut(row, [least, most]) {
    if (row.low === null) return row;
    return { ...row, low: Math.max(least, row.low), high: Math.min(most, row.high) };
  }

  function series() {
    const shown = here().filter((row) => !hidden.has(row.label));
    const labelled = new Set(shown.map((row) => row.label));
    const points = shown.map(datum);
    const lines = curves
      .filter((row) => isHere(row) && labelled.has(row.label))
      .filter((row) => row.flops > 0)
      .map((row) => ({ ...row, ...lookOf(row), accuracy: 100 * row.accuracy }));
    const bounds = room([...points, ...lines].map((row) => row.accuracy));
    return {
      points: points.filter((row) => row.flops > 0).map((row) => cut(row, bounds)),
      floors: points.filter((row) => !(row.flops > 0)),
      curves: lines,
    };
  }

  function explain() {
    const shown = here().filter((row) => !hidden.has(row.label));
    const distinct = new Set(shown.map(lookOf).map(({ color, shape }) => `${color} ${shape}`)).size;
    const alike = distinct < shown.length ? "; some look alike, since there are more methods than colours and shapes" : "";
    notice.textContent = `${shown.length} of ${here().length} methods shown${alike}`;
  }

  function around(x, y, width, height) {
    return { left: x - width / 2, right: x + width / 2, top: y - height / 2, bottom: y + height / 2 };
  }

  function meet(a, b) {
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  }

  // Middles of the places for a name, the best first: around a point, or along a line from its beginning.
  function places(row, x, y, width) {
    if (!(row.flops > 0)) {
      const steps = Math.max(1, Math.floor((view.width() - width) / 20));
      return [...Array(steps).keys()].flatMap((k) => [-1, 1].map((side) => [4 + 20 * k + width / 2, y + 10 * side]));
    }
    return DISTANCES.flatMap((far) => TURNS.map((turn) => [
      x + (far + width / 2) * Math.cos(turn), y - (far + NAME.height / 4) * Math.sin(turn),
    ]));
  }

  // The rows with names that cover neither one another nor a mark; a name without such a place is left out.
  function named({ points, floors, curves: lines }) {
    const [across, up] = [view.scale("x"), view.scale("y")];
    const spot = (row) => [row.flops > 0 ? across(row.flops) : 0, up(row.accuracy)];
    const taken = points.map((row) => around(...spot(row), 2 * NAME.mark, 2 * NAME.mark));
    taken.push(...floors.map((row) => around(view.width() / 2, up(row.accuracy), view.width(), 3)));
    const frame = { left: 0, right: view.width(), top: 0, bottom: view.height() };
    pen.font = `${NAME.font} ${getComputedStyle(document.body).fontFamily}`;
    const written = (row) => {
      const width = pen.measureText(row.label).width + 4;
      const [x, y] = spot(row);
      const inside = (box) => box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom;
      for (const [middle, level] of places(row, x, y, width)) {
        const box = around(middle, level, width, NAME.height);
        if (inside(box) && !taken.some((other) => meet(box, other))) {
          taken.push(box);
          return { ...row, name: row.label, dx: box.left + 2 - x, dy: level - y };
        }
      }
      return row;
    };
    return { points: points.map(written), floors: floors.map(written), curves: lines };
  }

  function give(values) {
    for (const [name, rows] of Object.entries(values)) view.data(name, rows);
    return view.resize().runAsync();
  }

  // Twice: where names have room is known once the axes are drawn. Rows are made anew, since Vega marks its own.
  async function update() {
    explain();
    if (!view) return;
    const turn = ++drawn;
    await give(series());
    if (turn === drawn) await give(named(series()));
  }

  function swatch(look) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("viewBox", "-8 -8 16 16");
    made.setAttribute("aria-hidden", "true");
    const shape = made.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    shape.setAttribute("d", SHAPES[look.shape]);
    shape.setAttribute("fill", look.color);
    return made;
  }

  function toggle(label, button) {
    if (hidden.has(label)) hidden.delete(label);
    else hidden.add(label);
    button.setAttribute("aria-pressed", String(!hidden.has(label)));
    keep();
  }

  function keep() {
    Site.remember({ hide: [...hidden].sort().join("|") });
    update();
  }

  function drawLegend() {
    const present = new Set(here().map((row) => row.label));
    const entries = [...(looks.get(tracks.value) || [])].filter(([label]) => present.has(label));
    const buttons = entries.map(([label, look]) => {
      const button = Site.element("button", "entry");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(label)));
      button.append(swatch(look), Site.element("span", "", label));
      button.addEventListener("click", () => toggle(label, button));
      return button;
    });
    legend.replaceChildren(...buttons);
  }

  function colors() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const axis = {
      labelColor: of("--muted"), titleColor: of("--ink"), gridColor: of("--line"), domainColor: of("--line"),
      tickColor: of("--line"), labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500, titlePadding: 12,
    };
    return { background: "transparent", font: getComputedStyle(document.body).fontFamily, axis, view: { stroke: null } };
  }

  async function draw() {
    const options = { actions: false, renderer: "svg", config: colors(), logLevel: ERRORS, tooltip: { theme: dark.matches ? "dark" : "light" } };
    const made = await vegaEmbed("#plot", { ...spec, datasets: series() }, options);
    if (view) view.finalize();
    view = made.view;
    let width = 0;
    view.addSignalListener("width", (_, found) => {
      if (found !== width) setTimeout(update);  // not amidst the drawing that tells of it
      width = found;
    });
    update();
    document.documentElement.dataset.ready = "plot";
  }

  function change() {
    const chosen = rows.find((row) => row.track === tracks.value);
    const facets = Object.fromEntries(FACETS.map((name) => [name, chosen && chosen[name]]));
    Site.remember({ track: tracks.value, ipc: ipcs.value, ...facets });
    drawLegend();
    update();
  }

  start();
  drawLegend();
  tracks.addEventListener("change", () => { offerIpcs(ipcs.value); change(); });
  ipcs.addEventListener("change", change);
  document.querySelector("[data-all]").addEventListener("click", () => { hidden.clear(); drawLegend(); keep(); });
  document.querySelector("[data-none]").addEventListener("click", () => {
    here().forEach((row) => hidden.add(row.label));
    drawLegend();
    keep();
  });
  dark.addEventListener("change", draw);
  Site.listens();
  draw();
})();
