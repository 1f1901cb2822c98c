"use strict";
// --------------------------------------------------------------------------------------------- funnel

/** The flow from step to step: how many samples of each source are left after it, as bands. */
function drawFlow() {
  const steps = DATA.steps;
  const points = [];
  for (const source of SOURCES) {
    const mine = DATA.funnel.filter((line) => line.source === source);
    let left = mine.length ? mine[0].in : 0;
    points.push({x: 0, left, source});
    steps.forEach((step, i) => {
      const line = mine.find((one) => one.step === step);
      if (line) left = line.out;
      points.push({x: i + 1, left, source});
    });
  }
  const names = ["sources", ...steps];
  const total = (x) => points.filter((p) => p.x === x).reduce((sum, p) => sum + p.left, 0);
  const labels = names.map((name, x) => ({x, name: name.length > 22 ? `${name.slice(0, 21)}…` : name, total: total(x), full: name}));
  const bands = names.slice(1).flatMap((name, i) => [
    {name, x: i, y1: total(i), y2: total(i)}, {name, x: i + 1, y1: total(i + 1), y2: total(i)},
  ]);
  const lost = labels.slice(1).map((one, i) => ({...one, lost: total(i) - one.total, y: (total(i) + one.total) / 2})).filter((one) => one.lost);
  const place = at("flow");
  place.replaceChildren(chart("Samples left after each step",
    labels.map((one, i) => `${one.full}: ${whole(one.total)}${i && total(i - 1) > one.total ? ` (${whole(total(i - 1) - one.total)} dropped)` : ""}`).join("; ") + ". Red is what a step drops.", {
      width: widthOf(place, 1100), height: 320, marginTop: 40, marginBottom: 50, marginLeft: 10, marginRight: 60,
      x: {domain: [0, names.length - 1], axis: null}, y: {axis: null, insetTop: 8}, color: colours(SOURCES),
      marks: [
        Plot.areaY(points, {x: "x", y: "left", fill: "source", curve: "bump-x", fillOpacity: 0.85,
          title: (p) => `${p.source}: ${whole(p.left)} after ${names[p.x]}`}),
        Plot.areaY(bands, {x: "x", y1: "y1", y2: "y2", z: "name", curve: "bump-x", fill: "#d92d20", fillOpacity: 0.28,
          title: (b) => `${b.name} drops ${whole(total(names.indexOf(b.name) - 1) - total(names.indexOf(b.name)))}`}),
        Plot.ruleX(labels, {x: "x", stroke: "currentColor", strokeOpacity: 0.35}),
        Plot.text(lost, {x: "x", y: "y", dx: -5, textAnchor: "end", text: (d) => `−${whole(d.lost)}`, fontSize: 11}),
        Plot.text(labels, {x: "x", frameAnchor: "top", dy: -22, dx: 3, text: (d) => whole(d.total), textAnchor: "start", fontWeight: "bold"}),
        Plot.text(labels, {x: "x", frameAnchor: "bottom", dy: 16, dx: 3, text: "name", textAnchor: "start", rotate: names.length > 6 ? 18 : 0}),
      ],
    }, legend(SOURCES)));
}

// -------------------------------------------------------------------------------------------- mixture

function drawShares() {
  const place = at("shares");
  for (const set of DATA.sets) {
    const bars = set.mixture.flatMap((line) => [
      {source: line.source, what: "target", share: line.target}, {source: line.source, what: "actual", share: line.actual},
      {source: line.source, what: "of loss tokens", share: line.shares.loss_tokens},
    ]).filter((bar) => bar.share !== null);
    place.append(chart(set.name, set.mixture.map((line) =>
      `${line.source} ${(100 * line.actual).toFixed(1)} % for a target of ${line.target === null ? "none" : (100 * line.target).toFixed(1) + " %"}`).join("; ") + ".", {
      width: columnOf(place), height: 34 + 46 * set.mixture.length, marginLeft: 110, marginRight: 80,
      x: {percent: true, label: "share, %", grid: true}, y: {label: null, domain: ["target", "actual", "of loss tokens"], axis: null},
      fy: {label: null, domain: set.mixture.map((line) => line.source)}, color: colours(SOURCES), facet: {marginRight: 80},
      marks: [
        Plot.barX(bars, {x: "share", y: "what", fy: "source", fill: "source", fillOpacity: (bar) => ({target: 0.35, actual: 1, "of loss tokens": 0.65}[bar.what])}),
        Plot.text(bars, {x: "share", y: "what", fy: "source", text: "what", textAnchor: "start", dx: 4, fontSize: 10}),
        Plot.ruleX([0]),
      ],
    }));
  }
}

// ----------------------------------------------------------------------------------------- histograms

/** The scale's ends, which make room for a threshold as long as the samples keep a fifth of the width; and which do. */
function scaleFor(histogram, thresholds) {
  const {edges, log} = histogram, to = log ? Math.log : Number, width = (ends) => to(ends[1]) - to(ends[0]);
  let domain = [edges[0], edges[edges.length - 1]];
  const most = 5 * width(domain);
  const drawn = thresholds.filter((one) => {
    const wider = [Math.min(domain[0], one.value), Math.max(domain[1], one.value)];
    const fits = (!log || one.value > 0) && width(wider) <= most;
    if (fits) domain = wider;
    return fits;
  });
  return [domain, drawn];
}

function drawHistograms() {
  const chosen = at("histogram-source").value, place = at("bars");
  place.replaceChildren();
  for (const one of DATA.histograms) {
    const sources = one.sources.filter((s) => !chosen || s.source === chosen);
    if (!sources.length) continue;
    const bars = sources.flatMap((s) => s.kept.flatMap((kept, i) => [
      {source: s.source, state: "kept", count: kept, x1: one.edges[i], x2: one.edges[i + 1]},
      {source: s.source, state: "dropped", count: s.dropped[i], x1: one.edges[i], x2: one.edges[i + 1]},
    ])).filter((bar) => bar.count);
    const lines = one.thresholds.filter((t) => !t.source || !chosen || t.source === chosen);
    const [domain, drawn] = scaleFor(one, lines);
    const words = lines.map((t) => `“${t.rule}” at ${t.value.toLocaleString("en-US")}${drawn.includes(t) ? "" : " (off the scale: no sample is near it)"}`);
    place.append(chart(one.label,
      "Median: " + sources.map((s) => `${s.source} ${s.median.toLocaleString("en-US", {maximumSignificantDigits: 3})}`).join(", ") +
      (words.length ? `. Thresholds: ${words.join("; ")}.` : "."), {
      width: columnOf(place), height: 190, marginLeft: 50, color: {...colours(SOURCES)},
      marginBottom: 42, x: {type: one.log ? "log" : "linear", domain, label: one.log ? `${one.label} (log scale)` : one.label, ticks: 5, tickFormat: one.log ? "~s" : undefined},
      y: {label: "samples", grid: true, ticks: 4},
      marks: [
        Plot.rectY(bars, {x1: "x1", x2: "x2", y: "count", fill: (b) => b.state === "kept" ? b.source : "#8a8f96", fillOpacity: (b) => b.state === "kept" ? 0.9 : 0.6, inset: 0.3,
          order: (b) => `${b.state === "kept" ? 0 : 1}${b.source}`, title: (b) => `${b.source}, ${b.state}: ${whole(b.count)}`}),
        Plot.ruleX(drawn, {x: "value", stroke: "#d92d20", strokeWidth: 2, title: "rule"}),
        Plot.ruleY([0]),
      ],
    }));
  }
  place.prepend(legend(chosen ? [chosen] : SOURCES, SOURCES));
  place.firstChild.style.gridColumn = "1 / -1";
}

// ---------------------------------------------------------------------------------------------- packs

function drawPacks() {
  const name = at("pack-set").value, set = DATA.sets.find((one) => one.name === name), {packs, note} = DATA.packs[name];
  at("pack-note").textContent = note;
  at("pack-legend").replaceChildren(legend(set.mixture.map((line) => line.source), SOURCES));
  at("pack-detail").replaceChildren();
  at("pack-rows").replaceChildren(...packs.map((pack) => packRow(pack, set)));
  drawCosts(set);
}

function packRow(pack, set) {
  const bar = drawing("svg", {viewBox: `0 0 ${set.seq_len} 10`, preserveAspectRatio: "none", "aria-hidden": "true"});
  const add = (from, to, colour, opacity) => bar.append(drawing("rect", {x: from, y: 0, width: to - from, height: 10, fill: colour, "fill-opacity": opacity}));
  for (const segment of pack.segments) {
    let from = segment.start;
    for (const span of segment.spans) {
      add(from, span.stop, colourOf(SOURCES, segment.source), span.text === undefined ? 0.45 : 1);
      from = span.stop;
    }
    bar.append(drawing("line", {x1: segment.start, x2: segment.start, y1: 0, y2: 10, stroke: "currentColor", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke"}));
  }
  const row = element("button", {type: "button", "aria-pressed": "false", "aria-label":
    `Pack ${pack.index}: ${pack.segments.length} samples, ${whole(pack.tokens)} of ${whole(set.seq_len)} tokens`,
    onclick: () => choosePack(row, pack, set)}, element("span", {}, String(pack.index)), bar);
  return row;
}

function choosePack(row, pack, set) {
  for (const other of at("pack-rows").children) other.setAttribute("aria-pressed", other === row ? "true" : "false");
  at("pack-detail").replaceChildren(element("div", {class: "detail"},
    element("h3", {}, `Pack ${pack.index} of ${set.name}`),
    element("p", {class: "quiet"}, `${pack.segments.length} samples, ${whole(pack.tokens)} of ${whole(set.seq_len)} tokens, ` +
      `${whole(pack.loss_tokens)} loss tokens, ${whole(pack.patches)} patches`),
    ...pack.segments.map(segmentOf)));
}

function segmentOf(segment) {
  const made = element("div", {class: "segment", style: `border-color:${colourOf(SOURCES, segment.source)}`},
    element("div", {}, element("b", {}, segment.source), ` tokens ${whole(segment.start)}–${whole(segment.stop)}, ${whole(segment.loss_tokens)} loss tokens, repeat ${segment.repeat}`),
    element("div", {class: "mono quiet"}, segment.id));
  const text = element("div", {class: "text"});
  for (const span of segment.spans) {
    if (span.text === undefined) text.append(pictureOf(span));
    else text.append(span.loss ? element("mark", {}, span.text) : span.text);
  }
  made.append(text);
  return made;
}

function pictureOf(span) {
  const said = span.grid ? `${span.grid[1]} × ${span.grid[2]} patches${span.grid[0] > 1 ? `, ${span.grid[0]} times` : ""}` : "picture";
  const picture = DATA.pictures[span.picture];
  if (!picture?.src) return element("span", {class: "quiet"}, `[${said}${picture?.problem ? `: ${picture.problem}` : ""}]`);
  return element("figure", {class: "picture"}, framed(picture, said, span.shapes), element("figcaption", {}, said));
}

function drawCosts(set) {
  const costs = DATA.costs[set.name], place = at("pack-costs");
  place.replaceChildren();
  if (!costs) return;
  const points = costs.attention.map((value, i) => ({step: i * costs.every, attention: value, patches: costs.patches[i],
    "attention, slowest pack": costs.slowest_attention[i], "patches, slowest pack": costs.slowest_patches[i]}));
  const lines = [["attention", "Attention cost of a pack (Σ l²), the mean of each step"], ["patches", "Patches of a pack, the mean of each step"],
    ["attention, slowest pack", "The slowest pack of each step, × the step's average attention cost"]];
  for (const [key, title] of lines) {
    place.append(chart(title, `${whole(points.length)} steps of ${costs.packs} packs in the order of training.`, {
      width: columnOf(place), height: 170, marginLeft: 60, x: {label: "step", ticks: 5}, y: {label: null, grid: true, ticks: 4, zero: key !== "attention, slowest pack", tickFormat: "~s"},
      marks: [Plot.lineY(points, {x: "step", y: key, stroke: COLOURS[0]}), Plot.dot(points, {x: "step", y: key, r: points.length > 60 ? 0 : 2.5, fill: COLOURS[0]})],
    }));
  }
}

// --------------------------------------------------------------------------------------------- set up

drawFlow();
drawShares();
if (DATA.histograms.length) {
  choices(at("histogram-source"), SOURCES, "all");
  at("histogram-source").addEventListener("input", drawHistograms);
  drawHistograms();
}
if (DATA.samples.length) setUpSamples();
choices(at("pack-set"), DATA.sets.map((set) => set.name));
at("pack-set").addEventListener("input", drawPacks);
drawPacks();
