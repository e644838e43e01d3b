"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const commits = data.commits, MOST = 3000;
  const dark = themeButton(() => draw());
  let chosen = commits[commits.length - 1] || null, order = { key: "index", down: true }, timer;

  commits.forEach((commit, index) => { commit.index = index; });

  function counted(number, noun) {
    return [number.toLocaleString("en"), number === 1 ? noun : noun + "s"];
  }

  function kind(commit) {
    if (commit.recipe !== null) return "merge by recipe";
    return commit.merge ? "merge" : "commit";
  }

  function start() {
    $("title").textContent = data.path;
    const far = d3.sum(commits, (commit) => commit.distance || 0);
    tiles($("tiles"), [
      counted(commits.length, "commit"),
      counted(commits.filter((commit) => commit.merge).length, "merge"),
      counted(new Set(commits.map((commit) => commit.author)).size, "author"),
      [far ? "≈ " + numberText(far) : "unknown", "distance travelled, |ΔW|"],
      [bytesText(d3.sum(commits, (commit) => commit.stored)), "stored for all of it"],
    ]);
    $("foot").textContent = `Written by git-theta ${data.version}. Distances are estimated from the stored summaries.` + (data.left ? ` The ${data.left.toLocaleString("en")} oldest commits are left out.` : "");
    $("search").addEventListener("input", table);
    addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(draw, 120); });
    draw();
    table();
  }

  function draw() { graph(); view(); }

  function graph() {
    const box = $("graph");
    const lanes = (d3.max(commits, (commit) => commit.lane) || 0) + 1;
    const width = Math.max(box.clientWidth, 80 + 14 * commits.length);
    const colours = { commit: colour("--accent"), merge: colour("--good"), "merge by recipe": colour("--odd") };
    const links = commits.flatMap((commit) => commit.parents.map((parent) => ({ from: commits[parent], to: commit })).filter((link) => link.from));
    const x = { type: "linear", domain: [-0.5, Math.max(0.5, commits.length - 0.5)], axis: null };
    const common = { width, marginLeft: 70, marginRight: 20, x, style: { background: "transparent", color: "var(--ink)", fontSize: "12px" } };
    const top = Plot.plot({
      ...common, height: 46 + 26 * lanes, marginTop: 22, marginBottom: 8,
      y: { domain: [-0.6, lanes - 0.4], axis: null, reverse: false },
      marks: [
        Plot.link(links, { x1: (link) => link.from.index, x2: (link) => link.to.index, y1: (link) => link.from.lane, y2: (link) => link.to.lane, stroke: colour("--old"), strokeWidth: 2, curve: "bump-x" }),
        Plot.text(commits.filter((commit) => commit.refs), { x: "index", y: "lane", text: (commit) => commit.refs.length > 24 ? commit.refs.slice(0, 23) + "…" : commit.refs, dy: -13, fontSize: 11, textAnchor: (commit) => commit.index > commits.length - 4 ? "end" : "middle" }),
        Plot.dot(commits, { x: "index", y: "lane", r: 6, fill: (commit) => colours[kind(commit)], symbol: (commit) => commit.merge ? "diamond" : "circle", stroke: colour("--panel"), strokeWidth: 1.5, className: "nodes" }),
      ],
    });
    top.setAttribute("role", "group");
    top.setAttribute("aria-label", "Graph of commits");
    const nodes = [...top.querySelectorAll('g[aria-label="dot"] > *')];
    nodes.forEach((node, index) => {
      const commit = commits[index], told = `${commit.short} ${commit.date.slice(0, 10)} ${commit.author}: ${commit.subject}. ${commit.told}`;
      node.setAttribute("role", "button");
      node.setAttribute("aria-label", told);
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = told;
      node.append(title);
      activate(node, () => choose(commit));
    });
    roving(nodes, 1);
    const half = Math.min(0.38, 20 * commits.length / width);
    const bars = (key, label, format, fill) => {
      const values = commits.filter((commit) => commit[key]);
      const chart = Plot.plot({
        ...common, height: 130, marginTop: 22, marginBottom: 14,
        y: { label, grid: true, ticks: 4, tickFormat: format, domain: [0, d3.max(values, (commit) => commit[key]) || 1] },
        marks: [Plot.rectY(values, { x1: (commit) => commit.index - half, x2: (commit) => commit.index + half, y: key, fill, title: (commit) => `${commit.short}: ${format(commit[key])}` }), Plot.ruleY([0])],
        ariaLabel: label,
      });
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", label);
      return chart;
    };
    $("key").replaceChildren(...Object.entries(colours).map(([name, tone]) => { const mark = make("i"); mark.style.background = tone; return make("span", {}, mark, name); }));
    box.replaceChildren(top, bars("distance", "Distance travelled, |ΔW|", numberText, colour("--accent")), bars("stored", "Bytes stored", bytesText, colour("--old")));
    box.scrollLeft = box.scrollWidth;
  }

  function choose(commit) {
    chosen = commit;
    view();
    for (const line of $("body").children) line.setAttribute("aria-selected", line.dataset.commit === commit.commit);
    $("said").textContent = `${commit.short} is shown`;
  }

  function view() {
    $("view").hidden = !chosen;
    if (!chosen) return;
    const commit = chosen;
    $("view-name").textContent = commit.subject;
    const facts = [["commit", commit.commit], ["author", commit.author], ["date", commit.date], ["did", commit.told], ["distance", commit.distance === null ? "not known here" : "≈ " + numberText(commit.distance)], ["stored", bytesText(commit.stored)]];
    if (commit.refs) facts.push(["refs", commit.refs]);
    $("facts").replaceChildren(...facts.flatMap(([name, told]) => [make("dt", { text: name }), make("dd", { text: told })]));
    $("names").replaceChildren(...commit.tensors.map((line) => make("li", { text: line })));
    $("recipe").textContent = commit.recipe || "";
    $("recipe").hidden = !commit.recipe;
  }

  function table() {
    const list = [
      { key: "index", title: "commit", text: (c) => c.short, sort: (c) => c.index },
      { key: "subject", title: "message", text: (c) => c.subject, sort: (c) => c.subject },
      { key: "author", title: "author", text: (c) => c.author, sort: (c) => c.author },
      { key: "date", title: "date", text: (c) => c.date.slice(0, 10), sort: (c) => c.date },
      { key: "changed", title: "tensors", text: (c) => numberText(c.changed), sort: (c) => c.changed },
      { key: "distance", title: "|ΔW|", text: (c) => c.distance === null ? "" : "≈ " + numberText(c.distance), sort: (c) => c.distance },
      { key: "stored", title: "stored", text: (c) => bytesText(c.stored), sort: (c) => c.stored },
    ];
    const sorter = list.find((column) => column.key === order.key) || list[0];
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = commits.filter((c) => { const text = `${c.subject} ${c.author} ${c.commit} ${c.tensors.join(" ")}`.toLowerCase(); return words.every((word) => text.includes(word)); });
    const blank = (c) => sorter.sort(c) === null ? 1 : 0;
    found.sort((a, b) => blank(a) - blank(b) || (order.down ? d3.descending : d3.ascending)(sorter.sort(a), sorter.sort(b)));
    $("head").replaceChildren(make("tr", {}, ...list.map((column, index) => make("th", { scope: "col", class: index < 4 ? "text" : null, "aria-sort": column.key === sorter.key ? (order.down ? "descending" : "ascending") : null },
      make("button", { type: "button", text: column.title, onclick: () => { order = { key: column.key, down: column.key === order.key ? !order.down : true }; table(); $("head").querySelectorAll("button")[index].focus(); } })))));
    $("body").replaceChildren(...found.slice(0, MOST).map((c) => {
      const line = make("tr", { "aria-selected": c === chosen, "data-commit": c.commit });
      list.forEach((column, index) => line.append(index ? make("td", { class: index < 4 ? "text" : null, text: column.text(c) }) : make("td", {}, make("button", { type: "button", class: "mono", text: column.text(c), onclick: () => choose(c) }))));
      return line;
    }));
    $("shown").textContent = found.length === commits.length ? plural(found.length, "commit") : `${found.length.toLocaleString("en")} of ${plural(commits.length, "commit")}`;
  }

  start();
})();
