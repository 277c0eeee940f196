"use strict";
(() => {
  const NUMBERS = ["ipc", "accuracy", "seconds", "flops", "memory_bytes"];
  const SEARCHED = "q";
  const ALL_IMAGES = 0;
  const rows = Site.json("rows");
  const selects = [...document.querySelectorAll("select[data-facet]")];
  const search = document.querySelector("[data-search]");
  const sorting = document.querySelector("[data-sort]");
  const notice = document.querySelector("[data-notice]");

  // Unknown figures come last whichever way a column is sorted.
  const order = DataTable.ext.type.order;
  const compare = (a, b, sign) =>
    a === null || b === null ? (a === null) - (b === null) : sign * (a - b);
  order["figure-asc"] = (a, b) => compare(a, b, 1);
  order["figure-desc"] = (a, b) => compare(a, b, -1);

  function percent(value) {
    return `${Math.min(100, Math.max(0, 100 * value))}%`;
  }

  function bar(row) {
    const made = Site.element("span", "bar");
    made.setAttribute("aria-hidden", "true");
    if (row.low !== undefined && row.low !== null) {
      const band = made.appendChild(Site.element("span", "band"));
      band.style.left = percent(row.low);
      band.style.right = `calc(100% - ${percent(row.high)})`;
    }
    made.appendChild(Site.element("span", "dot")).style.left = percent(row.accuracy);
    return made;
  }

  function accuracy(row) {
    const made = Site.element("div", "accuracy");
    const known = row.accuracy !== undefined && row.accuracy !== null;
    const figure = made.appendChild(Site.element("span", known ? "figure" : "figure absent", row.figure || "–"));
    if (row.best) made.append(Site.element("span", "standing", "best"));
    if (row.tied) made.append(Site.element("span", "standing tied", "tied with the best"));
    if (known) made.append(bar(row));
    const interval = row.interval ? `95 %: ${row.interval}` : "";
    for (const about of [[interval, row.counts ? `n = ${row.counts}` : ""], [row.place]]) {
      const line = about.filter(Boolean).join(" · ");
      if (line) made.append(Site.element("small", "", line));
    }
    if (row.note) made.append(Site.element("small", "note", row.note));
    return made;
  }

  function method(row) {
    const made = Site.element("div", "method");
    const seeds = row.records || [];
    const name = seeds.length ? Site.element("a", "name", row.label) : Site.element("span", "name", row.label);
    if (seeds.length) {
      name.href = `records/${seeds[0].id}.html`;
      name.dataset.keep = "";
    }
    made.append(name);
    if (row.conditions) made.append(Site.element("small", "", row.conditions));
    return made;
  }

  function origin(row) {
    const made = Site.element("div", "origin");
    made.append(Site.element("span", `badge ${row.kind}`, row.kind));
    const small = Site.element("small", "");
    for (const seed of row.records || []) {
      const link = small.appendChild(Site.element("a", "", `seed ${seed.seed}`));
      link.href = `records/${seed.id}.html`;
      link.dataset.keep = "";
    }
    if (row.url) {
      const link = small.appendChild(Site.element("a", "", "source"));
      link.href = row.url;
      link.rel = "noreferrer";
      link.title = row.source;
      link.setAttribute("aria-label", `source: ${row.source}`);
    } else if (row.source) {
      small.className = "source";
      small.textContent = row.source;
      small.title = row.source;
    }
    if (small.childNodes.length) made.append(small);
    return made;
  }

  const two = (name, below) => (row) => {
    const made = Site.element("div", "two", row[name]);
    made.append(Site.element("small", "", below(row)));
    return made;
  };
  const text = (name) => (row) => Site.element("span", "", row[name] || "–");
  const columns = [
    ["label", "Method", method],
    ["dataset", "Dataset", two("dataset", (row) => `${row.scale} scale`)],
    ["ipc", "ipc", (row) => Site.element("span", "", row.ipc === ALL_IMAGES ? "all" : String(row.ipc))],
    ["accuracy", "Accuracy, %", accuracy],
    ["seconds", "Time", text("seconds_text")],
    ["flops", "FLOPs", text("flops_text")],
    ["memory_bytes", "Memory", text("memory_text")],
    ["network", "Network", two("network", (row) => (row.network === row.arch ? "" : `sets by ${row.arch}`))],
    ["labels", "Labels, augmentation", two("labels", (row) => [...new Set([row.regime, row.augmentation])].join(", "))],
    ["kind", "Origin", origin],
  ];

  function column([name, title, draw]) {
    const number = NUMBERS.includes(name);
    return {
      name,
      title,
      type: number ? "figure" : "string",
      className: number ? `${name} number` : name,
      orderSequence: name === "accuracy" ? ["desc", "asc"] : ["asc", "desc"],
      data: null,
      render: (row, purpose) => {
        const value = row[name] === undefined ? null : row[name];
        if (purpose === "display") return draw(row);
        return number ? value : String(value === null ? "" : value);
      },
      createdCell: (cell) => cell.setAttribute("data-title", title),
    };
  }

  function wanted() {
    const parameters = Site.parameters();
    const [name, direction] = (parameters.get("sort") || "").split(".");
    const place = columns.findIndex((each) => each[0] === name);
    if (place >= 0) return [[place, direction === "desc" ? "desc" : "asc"]];
    return [[columns.length - 1, "asc"], [1, "asc"], [2, "asc"], [3, "desc"]];
  }

  function fromAddress() {
    const parameters = Site.parameters();
    for (const select of selects) {
      const value = parameters.get(select.dataset.facet) || "";
      select.value = value;
      // A link to a value that is no longer there shows everything rather than nothing.
      if (select.selectedIndex < 0) select.value = "";
    }
    search.value = parameters.get(SEARCHED) || "";
  }

  // Training on all images is the same whatever the number of images per class.
  function everyIpc(select, row) {
    return select.dataset.facet === "ipc" && row.ipc === ALL_IMAGES;
  }

  function fits(row) {
    const words = search.value.trim().toLowerCase();
    if (words && !row.label.toLowerCase().includes(words)) return false;
    return selects.every((select) => !select.value || String(row[select.dataset.facet]) === select.value || everyIpc(select, row));
  }

  function explain(table) {
    const shown = table.rows({ search: "applied" }).data().toArray();
    const tracks = new Set(shown.map((row) => row.track));
    const counts = `${shown.length} of ${rows.length} rows`;
    const mixed = ` from ${tracks.size} tracks: accuracies compare only within one`;
    notice.textContent = counts + (tracks.size > 1 ? mixed : "");
  }

  fromAddress();
  const table = new DataTable("#board", {
    data: rows,
    columns: columns.map(column),
    order: wanted(),
    deferRender: true,
    autoWidth: false,
    orderMulti: false,
    pageLength: 50,
    lengthMenu: [25, 50, 100, 500],
    layout: { topStart: null, topEnd: null, bottomStart: "pageLength", bottomEnd: "paging" },
    language: {
      zeroRecords: "No row fits these filters.",
      lengthMenu: "_MENU_ rows a page",
      paginate: { first: "«", previous: "‹", next: "›", last: "»" },
    },
  });
  table.search.fixed("facets", (_text, row) => fits(row));

  function refilter() {
    const values = Object.fromEntries(selects.map((select) => [select.dataset.facet, select.value]));
    Site.remember({ ...values, [SEARCHED]: search.value.trim() });
    table.draw();
  }

  for (const [name, title] of columns) {
    for (const [direction, arrow] of [["asc", "↑"], ["desc", "↓"]]) {
      const option = sorting.appendChild(Site.element("option", "", `${title} ${arrow}`));
      option.value = `${name}.${direction}`;
    }
  }
  sorting.value = "";
  selects.forEach((select) => select.addEventListener("change", refilter));
  search.addEventListener("input", refilter);
  sorting.addEventListener("change", () => {
    const [name, direction] = sorting.value.split(".");
    table.order([columns.findIndex((each) => each[0] === name), direction]).draw();
  });
  document.querySelector("[data-reset]").addEventListener("click", () => {
    selects.forEach((select) => { select.value = ""; });
    search.value = "";
    refilter();
  });
  table.on("order", () => {
    const [first, ...rest] = table.order();
    const chosen = first && !rest.length ? `${columns[first[0]][0]}.${first[1]}` : "";
    sorting.value = chosen;
    Site.remember({ sort: chosen });
  });
  table.on("draw", () => explain(table));
  table.draw();
  Site.listens();
  document.documentElement.dataset.ready = "table";
})();
