"use strict";
// Samples as cards: filtered, sorted and paged in the browser. For every page whose DATA has samples and pictures.
const SOURCES = DATA.sources;
const PAGE = 24;
const at = (id) => document.getElementById(id);

// -------------------------------------------------------------------------------------------- samples

const ORDERS = {
  "as picked": null, "most tokens": (s) => -(s.tokens ?? -1), "fewest tokens": (s) => s.tokens ?? Infinity,
  "most pixels": (s) => -(s.pixels ?? -1), "fewest pixels": (s) => s.pixels ?? Infinity,
  "longest text": (s) => -(s.text_chars ?? -1), "shortest text": (s) => s.text_chars ?? Infinity,
};
let pageNumber = 0;

function setUpSamples() {
  const scores = [...new Set(DATA.samples.flatMap((s) => Object.entries(s.scores ?? {})
    .filter(([, value]) => typeof value === "number").map(([name]) => name)))].sort();
  for (const name of scores) {
    ORDERS[`highest ${name}`] = (s) => -(s.scores?.[name] ?? -Infinity);
    ORDERS[`lowest ${name}`] = (s) => s.scores?.[name] ?? Infinity;
  }
  choices(at("sample-source"), SOURCES, "all");
  choices(at("sample-kind"), [...new Set(DATA.samples.map((s) => s.kind))].sort(), "all");
  choices(at("sample-state"), DATA.states, "all");
  choices(at("sample-order"), Object.keys(ORDERS));
  const again = () => { pageNumber = 0; drawSamples(); };
  at("sample-controls").addEventListener("input", again);
  at("sample-controls").addEventListener("submit", (event) => event.preventDefault());
  at("sample-before").addEventListener("click", () => { pageNumber -= 1; drawSamples(); });
  at("sample-after").addEventListener("click", () => { pageNumber += 1; drawSamples(); });
  drawSamples();
}

function matching() {
  const [source, kind, state] = ["source", "kind", "state"].map((name) => at(`sample-${name}`).value);
  const words = at("sample-text").value.toLowerCase();
  const found = DATA.samples.filter((s) => (!source || s.source === source) && (!kind || s.kind === kind) &&
    (!state || s.state === state) && (!words || [s.id, s.place, s.why, ...(s.turns ?? []).map(([, text]) => text)].join("\n").toLowerCase().includes(words)));
  const order = ORDERS[at("sample-order").value];
  if (order) found.sort((a, b) => order(a) - order(b));
  return found;
}

function drawSamples() {
  const found = matching(), pages = Math.max(1, Math.ceil(found.length / PAGE));
  pageNumber = Math.min(Math.max(0, pageNumber), pages - 1);
  at("sample-count").textContent = `${whole(found.length)} of ${whole(DATA.samples.length)} samples, page ${pageNumber + 1} of ${pages}`;
  at("sample-before").disabled = pageNumber === 0;
  at("sample-after").disabled = pageNumber >= pages - 1;
  at("sample-cards").replaceChildren(...found.slice(pageNumber * PAGE, (pageNumber + 1) * PAGE).map(card));
}

/** A picture with the boxes, quads and points that its sample's texts name, drawn over it. */
function framed(picture, said, shapes) {
  const image = element("img", {src: picture.src, width: picture.width, height: picture.height, alt: `Picture, ${said}` +
    (shapes ? `, with ${shapes.length} boxes or points` : "")});
  if (!shapes) return element("span", {class: "picture"}, image);
  const over = drawing("svg", {viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true"});
  const line = {"vector-effect": "non-scaling-stroke"};
  for (const [kind, points] of shapes) {
    const each = kind === "box" && points.length % 4 === 0 ? 4 : kind === "quad" ? 8 : 2;
    for (let i = 0; i < points.length; i += each) {
      const p = points.slice(i, i + each);
      if (each === 4) over.append(drawing("rect", {x: p[0], y: p[1], width: p[2] - p[0], height: p[3] - p[1], ...line}));
      else if (each === 8) over.append(drawing("polygon", {points: p.join(" "), ...line}));
      else over.append(drawing("path", {d: `M${p[0] - .02} ${p[1]}h.04M${p[0]} ${p[1] - .02}v.04`, ...line}));
    }
  }
  return element("span", {class: "picture"}, image, over);
}

function pictures(list) {
  return element("div", {class: "pictures"}, ...(list ?? []).map(({number, size, shapes}) => {
    const one = DATA.pictures[number];
    return one.src ? framed(one, size, shapes) : element("p", {class: "quiet"}, `[picture: ${one.problem}]`);
  }));
}

function textOf(turns) {
  return element("div", {class: "text", tabindex: "0", role: "group", "aria-label": "Text"}, ...(turns ?? []).flatMap(([role, text], i) =>
    [...(i ? ["\n"] : []), ...(role ? [element("b", {}, `${role}: `)] : []), text]));
}

function card(sample) {
  const kept = sample.state === "kept";
  const facts = [sample.tokens && `${whole(sample.tokens)} tokens`, sample.num_images && `${sample.num_images} picture${sample.num_images > 1 ? "s" : ""}`,
    sample.num_turns > 2 && `${sample.num_turns} turns`].filter(Boolean).join(", ");
  const scores = Object.entries(sample.scores ?? {});
  return element("li", {class: "card"},
    element("div", {}, element("span", {class: "chip", style: `background:${colourOf(SOURCES, sample.source)}`}),
      element("b", {}, sample.source), " ", element("span", {class: `state ${kept ? "" : "dropped"}`}, sample.state)),
    pictures(sample.pictures), textOf(sample.turns),
    ...(facts ? [element("div", {class: "quiet"}, facts)] : []),
    ...(sample.why ? [element("div", {class: "quiet"}, sample.why)] : []),
    ...(scores.length ? [element("details", {}, element("summary", {}, "scores and fields"),
      ...scores.map(([name, value]) => element("div", {class: "mono"}, `${name}: ${value}`)))] : []),
    ...(sample.like ? [element("div", {}, element("b", {}, `like this one of ${sample.like.source}:`),
      pictures(sample.like.pictures), textOf(sample.like.turns), element("div", {class: "mono quiet"}, sample.like.id))] : []),
    element("div", {class: "mono quiet"}, sample.id), element("div", {class: "mono quiet"}, sample.place ?? ""));
}
