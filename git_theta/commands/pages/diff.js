"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const metrics = data.metrics;
  const MOST = 3000, ROWS = 60;
  let model, rows, chosen = null, order = { key: "relative_l2", down: true };
  const dark = themeButton(() => draw());

  function start() {
    const select = $("model");
    data.models.forEach((entry, index) => select.append(make("option", { value: index, text: entry.title })));
    select.addEventListener("change", () => open(Number(select.value)));
    $("models").hidden = data.models.length < 2;
    $("search").addEventListener("input", table);
    $("what").addEventListener("change", table);
    addEventListener("resize", debounce(draw));
    open(0);
  }

  function debounce(action) {
    let timer;
    return () => { clearTimeout(timer); timer = setTimeout(action, 120); };
  }

  function open(index) {
    model = data.models[index];
    rows = model.tensors;
    chosen = rows.find((row) => row.singular) || rows.find((row) => row.histogram) || rows.find((row) => value(row, "relative_l2") !== null) || rows[0] || null;
    $("title").textContent = model.title;
    $("range").textContent = data.told;
    $("foot").textContent = `Written by git-theta ${data.version}. ` + (rows.some((row) => Object.values(row.metrics).some((m) => m.error)) ? "≈ marks estimates from the stored summaries, with a standard deviation of about 9 %." : "All figures are computed from the weights.");
    const counts = Object.entries(model.counts).map(([what, number]) => [number.toLocaleString("en"), what]);
    const entries = [[`${rows.length} of ${rows.length + model.same}`, "tensors differ"], ...counts];
    if (model.relative_l2 !== null) entries.push([(model.estimated ? "≈ " : "") + percentText(model.relative_l2), "|ΔW| / |W| of what changed"]);
    if (model.new) entries.push([bytesText(rows.reduce((sum, row) => sum + (row.what === "removed" || row.what === "renamed" ? 0 : row.stored), 0)), "stored for what changed"]);
    tiles($("tiles"), entries);
    const kinds = [...new Set(rows.map((row) => row.what))];
    $("what").replaceChildren(make("option", { value: "", text: "every change" }), ...kinds.map((what) => make("option", { value: what, text: what })));
    const notes = [...model.notes];
    if (rows.length > MOST) notes.push(`The table shows the ${MOST.toLocaleString("en")} tensors that changed most.`);
    $("notes").replaceChildren(...notes.map((text) => make("p", { class: "soft", text })));
    plain();
    draw();
    table();
  }

  function value(row, name) {
    const found = row.metrics[name];
    return found === undefined ? null : found.value;
  }

  function text(row, name) {
    const found = row.metrics[name];
    if (found === undefined) return "";
    return (found.error ? "≈ " : "") + found.text;
  }

  function draw() { heat(); view(); }

  // --- the heat map -----------------------------------------------------------------------------

  function heat() {
    const cells = rows.filter((row) => row.block !== null && value(row, "relative_l2") !== null);
    $("heat").hidden = !cells.length;
    if (!cells.length) return;
    const grouped = d3.group(cells, (row) => row.part);
    let parts = [...grouped.keys()];
    if (parts.length > ROWS) {
      const most = (part) => d3.max(grouped.get(part), (row) => value(row, "relative_l2"));
      parts = parts.sort((a, b) => d3.descending(most(a), most(b))).slice(0, ROWS).sort();
    }
    $("heat-note").textContent = grouped.size > parts.length ? `The ${parts.length} of ${grouped.size} parts that changed most.` : "";
    const kept = new Set(parts);
    const shown = cells.filter((row) => kept.has(row.part));
    // Parts of which nothing changed are shown too while there is room: where a model stands still says much.
    const all = model.still.map(([part, block]) => ({ part, block }));
    for (const part of new Set(all.map((cell) => cell.part))) if (parts.length < ROWS && !kept.has(part)) { kept.add(part); parts.push(part); }
    const still = all.filter((cell) => kept.has(cell.part));
    const last = Math.max(d3.max(shown, (row) => row.block), d3.max(still, (cell) => cell.block) || 0);
    const values = shown.map((row) => value(row, "relative_l2")).filter((v) => v > 0);
    const domain = values.length ? d3.extent(values) : [0.001, 1];
    domain[0] = Math.min(domain[0], domain[1] / 10);  // what is nearly alike looks alike
    const label = Math.min(260, 8 + 7 * d3.max(parts, (part) => part.length));
    const width = Math.max($("heat").clientWidth - 40, label + 60 + 17 * (last + 1));
    const step = Math.max(1, Math.ceil((last + 1) / Math.max(1, (width - label) / 26)));
    const chart = Plot.plot({
      width, height: 50 + 24 * parts.length, marginLeft: label, marginBottom: 40, padding: 0.06,
      style: { background: "transparent", color: "var(--ink)", fontSize: "12px" },
      x: { type: "band", domain: d3.range(last + 1), label: "block", tickSize: 0, tickFormat: (n) => n % step ? "" : String(n) },
      y: { type: "band", domain: parts, label: null, tickSize: 0, tickFormat: (part) => part.length > 36 ? "…" + part.slice(-35) : part },
      color: { type: "log", domain, interpolate: scheme() },
      marks: [Plot.cell(still, { x: "block", y: "part", fill: colour("--line"), inset: 0.5, rx: 2, ariaLabel: "still" }), Plot.cell(shown, { x: "block", y: "part", fill: (row) => value(row, "relative_l2") || domain[0], inset: 0.5, rx: 2 })],
    });
    chart.setAttribute("role", "group");
    chart.setAttribute("aria-label", "Heat map: relative change by part and block");
    const rects = [...chart.querySelectorAll('g[aria-label="cell"] rect')];
    // In reading order, so that the arrow keys go where the eye does.
    const at = new Map(parts.map((part, index) => [part, index]));
    const pairs = shown.map((row, index) => ({ row, node: rects[index] })).filter((pair) => pair.node);
    pairs.sort((a, b) => at.get(a.row.part) - at.get(b.row.part) || a.row.block - b.row.block);
    pairs.forEach(({ row, node }) => {
      const told = `${row.name}: ${text(row, "relative_l2")}`;
      node.setAttribute("role", "button");
      node.setAttribute("aria-label", told);
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = told;
      node.append(title);
      activate(node, () => choose(row));
    });
    const below = (by) => (index) => {
      const from = pairs[index].row, want = at.get(from.part) + by;
      return pairs.findIndex(({ row }) => at.get(row.part) === want && row.block >= from.block);
    };
    roving(pairs.map((pair) => pair.node), 1);
    pairs.forEach(({ node }, index) => node.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!by) return;
      event.preventDefault(); event.stopImmediatePropagation();
      const next = below(by)(index);
      if (next >= 0) { node.setAttribute("tabindex", -1); pairs[next].node.setAttribute("tabindex", 0); pairs[next].node.focus(); }
    }, true));
    $("heat-chart").replaceChildren(ramp(domain), chart);
  }

  // The colours and what they stand for, from the lowest to the highest.
  function scheme() {
    return dark() ? (t) => d3.interpolateViridis(0.1 + 0.9 * t) : (t) => d3.interpolateViridis(0.96 * (1 - t));
  }

  function ramp(domain) {
    const strip = make("div", { class: "ramp", "aria-hidden": "true" });
    strip.style.background = `linear-gradient(90deg, ${d3.range(0, 1.01, 0.1).map(scheme()).join(",")})`;
    const ends = [domain[0], Math.sqrt(domain[0] * domain[1]), domain[1]];
    return make("div", { class: "key" }, make("b", { text: "|ΔW| / |W|" }), strip, make("div", { class: "ends" }, ...ends.map((v) => make("span", { text: percentText(v) }))), model.still.length ? legend([["--line", "unchanged"]]) : "");
  }

  // --- one tensor -------------------------------------------------------------------------------

  function choose(row) {
    chosen = row;
    view();
    for (const line of $("body").children) line.setAttribute("aria-selected", line.dataset.name === row.name);
    $("said").textContent = `${row.name} is shown`;
  }

  function view() {
    $("view").hidden = !chosen;
    if (!chosen) return;
    const row = chosen, side = row.new || row.old;
    $("view-name").textContent = row.name;
    const facts = [["change", row.what + (row.sure ? "" : " (as far as summaries tell)")], ...(row.old_name === null ? [] : [["was called", row.old_name]]), ["shape", shape(row)], ["stored as", `${row.kinds.join(" + ") || "not yet stored"}, ${bytesText(row.stored)} of ${bytesText(side.bytes)}`]];
    for (const metric of metrics) if (row.metrics[metric.name]) facts.push([metric.label, text(row, metric.name)]);
    $("facts").replaceChildren(...facts.flatMap(([name, told]) => [make("dt", { text: name }), make("dd", { text: told })]));
    const width = Math.min(560, Math.max(260, $("view").clientWidth - 40));
    distributions(row, width);
    spectrum(row, width);
  }

  function shape(row) {
    const told = (side) => `${side.shape.join(" × ") || "scalar"} ${side.dtype}`;
    if (!row.old || !row.new) return told(row.old || row.new);
    return told(row.old) === told(row.new) ? told(row.new) : `${told(row.old)} → ${told(row.new)}`;
  }

  function distributions(row, width) {
    const found = row.histogram, box = $("histogram");
    if (!found) {
      box.replaceChildren(make("p", { class: "soft", text: row.what === "renamed" ? "The values are the same." : row.old && row.new ? "Distributions need the weights: write the report again with --exact." : "There is only one side." }));
      return;
    }
    const size = (found.high - found.low) / found.old.length;
    const points = (counts, name) => counts.map((share, index) => ({ x1: found.low + index * size, x2: found.low + (index + 1) * size, x: found.low + (index + 0.5) * size, share: share, side: name }));
    const old = points(found.old, "before"), now = points(found.new, "after");
    const chart = Plot.plot({
      width, height: 220, marginLeft: 50, style: { background: "transparent", color: "var(--ink)", fontSize: "12px" },
      x: { label: "value" }, y: { label: "share of values", grid: true, tickFormat: "%" },
      marks: [
        Plot.rectY(old, { x1: "x1", x2: "x2", y: "share", fill: colour("--old"), fillOpacity: 0.45 }),
        Plot.lineY(now, { x: "x", y: "share", stroke: colour("--new"), strokeWidth: 2, curve: "step" }),
        Plot.ruleY([0]),
      ],
      ariaLabel: `Distribution of the values of ${row.name} before and after`,
    });
    chart.setAttribute("role", "img");
    box.replaceChildren(legend([["--old", "before"], ["--new", "after"]]), chart, make("p", { class: "soft", text: found.note }));
  }

  function spectrum(row, width) {
    const found = row.singular, box = $("spectrum");
    if (!found || !found.values.length) {
      box.replaceChildren(make("p", { class: "soft", text: row.what === "renamed" ? "There is no difference." : row.old && row.new && (row.new.shape.length > 1) ? "Singular values need the weights: write the report again with --exact." : "Singular values are of matrices." }));
      return;
    }
    const floor = found.values[0] * 1e-7;
    const points = found.values.map((value, index) => ({ index: index + 1, value: Math.max(value, floor) }));
    const [low, high] = d3.extent(points, (point) => point.value);
    // On a logarithmic axis of less than a decade most of the usual ticks would have no label.
    const ticks = high < 10 * low ? d3.ticks(low, high, 4) : 5;
    const chart = Plot.plot({
      width, height: 200, marginLeft: 60, style: { background: "transparent", color: "var(--ink)", fontSize: "12px" },
      x: { label: "number", ticks: Math.min(width / 50, points.length), tickFormat: "d" }, y: { type: "log", label: "singular value of the difference", grid: true, ticks, tickFormat: numberText },
      marks: [Plot.lineY(points, { x: "index", y: "value", stroke: colour("--new") }), Plot.dot(points, { x: "index", y: "value", fill: colour("--new"), r: 3 })],
      ariaLabel: `The ${points.length} largest singular values of the difference`,
    });
    chart.setAttribute("role", "img");
    box.replaceChildren(chart, make("p", { class: "soft", text: found.note }));
  }

  function legend(entries) {
    return make("div", { class: "legend" }, ...entries.map(([name, told]) => {
      const mark = make("i"); mark.style.background = `var(${name})`;
      return make("span", {}, mark, told);
    }));
  }

  // --- the table --------------------------------------------------------------------------------

  function called(row) {
    return row.old_name === null ? row.name : `${row.old_name} → ${row.name}`;
  }

  function columns() {
    return [
      { key: "name", title: "tensor", text: called, sort: called },
      { key: "what", title: "change", text: (row) => row.what, sort: (row) => row.what },
      { key: "shape", title: "shape", text: shape, sort: (row) => (row.new || row.old).bytes },
      ...metrics.filter((metric) => rows.some((row) => row.metrics[metric.name])).map((metric) => ({ key: metric.name, title: metric.title, text: (row) => text(row, metric.name), sort: (row) => value(row, metric.name) })),
      { key: "stored", title: "stored", text: (row) => row.what === "removed" || row.what === "renamed" ? "" : `${bytesText(row.stored)} ${row.kinds.join("+")}`, sort: (row) => row.stored },
    ];
  }

  function table() {
    const list = columns();
    const sorter = list.find((column) => column.key === order.key) || list[0];
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), what = $("what").value;
    const found = rows.filter((row) => (!what || row.what === what) && words.every((word) => called(row).toLowerCase().includes(word)));
    const compare = order.down ? d3.descending : d3.ascending;
    const blank = (row) => sorter.sort(row) === null ? 1 : 0;
    found.sort((a, b) => blank(a) - blank(b) || compare(sorter.sort(a), sorter.sort(b)) || d3.ascending(a.name, b.name));
    $("head").replaceChildren(make("tr", {}, ...list.map((column, index) => {
      const sorted = column.key === sorter.key ? (order.down ? "descending" : "ascending") : null;
      return make("th", { scope: "col", "aria-sort": sorted, class: index < 3 ? "text" : null },
        make("button", { type: "button", text: column.title, onclick: () => { order = { key: column.key, down: column.key === order.key ? !order.down : index > 1 }; table(); $("head").querySelectorAll("button")[index].focus(); } }));
    })));
    $("body").replaceChildren(...found.slice(0, MOST).map((row) => {
      const line = make("tr", { "aria-selected": row === chosen, "data-name": row.name });
      list.forEach((column, index) => {
        const told = column.text(row);
        if (!index) line.append(make("td", {}, make("button", { type: "button", class: "mono", text: told, onclick: () => { choose(row); $("view").scrollIntoView({ block: "nearest", behavior: "smooth" }); } })));
        else if (column.key === "what") line.append(make("td", { class: "text" }, make("span", { class: `mark ${row.what}`, text: told })));
        else line.append(make("td", { class: index < 3 ? "text" : null, text: told }));
      });
      return line;
    }));
    $("shown").textContent = found.length === rows.length ? plural(found.length, "tensor") : `${found.length.toLocaleString("en")} of ${plural(rows.length, "tensor")}`;
  }

  function plain() {
    $("plain").hidden = !model.text.length;
    $("lines").replaceChildren(...model.text.map((line) => make("div", { class: line[0] === "-" ? "minus" : line[0] === "+" ? "plus" : null, text: line })));
  }

  if (data.models.length) start();
  else { $("title").textContent = "Nothing differs"; $("range").textContent = data.told; $("foot").textContent = `Written by git-theta ${data.version}.`; for (const id of ["models", "heat", "view", "all", "plain"]) $(id).hidden = true; }
})();
