"use strict";
const at = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-US", {maximumSignificantDigits: 4});

/** Where each stage begins, for the rules between them. */
function begins(points) {
  const first = new Map();
  for (const point of points) if (!first.has(point.stage)) first.set(point.stage, point.step);
  return [...first].map(([stage, step]) => ({stage, step}));
}

/** A chart of curves over steps: a line a name (broken between stages), with the stages written above. */
function draw(place, title, points, {names, log, zero, format, dots} = {}) {
  if (!points.length) return;
  names ??= [...new Set(points.map((point) => point.name))];
  const stages = begins(points);
  const ends = names.map((name) => points.filter((point) => point.name === name)).filter((mine) => mine.length);
  const words = ends.map((mine) => `${mine[0].name}: ${number(mine[0].value)} at step ${mine[0].step}, ${number(mine[mine.length - 1].value)} at step ${mine[mine.length - 1].step}`);
  place.append(chart(title, words.slice(0, 8).join("; ") + ".", {
    width: columnOf(place), height: 230, marginLeft: 56, marginTop: 34, color: colours(names),
    x: {label: "step", ticks: 5, tickFormat: "~s"}, y: {label: null, grid: true, ticks: 5, type: log ? "log" : "linear", zero: Boolean(zero), tickFormat: format ?? "~s"},
    marks: [
      Plot.ruleX(stages, {x: "step", stroke: "currentColor", strokeOpacity: 0.3, strokeDasharray: "3,3"}),
      Plot.text(stages, {x: "step", text: (d) => d.stage ?? "", frameAnchor: "top", dy: -20, dx: 2, textAnchor: "start", fontSize: 10, lineWidth: 9, textOverflow: "ellipsis"}),
      Plot.lineY(points, {x: "step", y: "value", stroke: "name", z: (p) => `${p.name}\n${p.stage}`, strokeWidth: 1.6, title: (p) => `${p.name}: ${number(p.value)} at step ${p.step}, ${p.stage}`}),
      ...(dots || points.length < 80 ? [Plot.dot(points, {x: "step", y: "value", fill: "name", r: 2.5})] : []),
    ],
  }, ...(names.length > 1 ? [legend(names)] : [])));
}

function drawLosses() {
  const place = at("loss"), {curves} = DATA;
  draw(place, "Loss by stage", curves.loss.map((point) => ({...point, name: point.stage})), {names: DATA.stages, format: ".2~f"});
  draw(place, "Held-out loss", DATA.evaluations.map((one) => ({step: one.step, stage: null, name: "held-out", value: one.loss})), {format: ".3~f", dots: true});
  draw(place, "Loss by source", curves.sources, {names: DATA.sources, format: ".2~f"});
  if (new Set(curves.kinds.map((point) => point.name)).size > 1 || DATA.sources.length < 2) draw(place, "Loss by kind", curves.kinds, {format: ".2~f"});
}

function drawPace() {
  const place = at("pace"), {curves} = DATA;
  draw(place, "Learning rates", curves.rates, {zero: true, format: ".1~e"});
  draw(place, "Gradient", curves.gradient, {format: ".2~f"});
  draw(place, "Speed", curves.speed, {zero: true});
  draw(place, "Share of the device's peak", curves.mfu, {zero: true, format: ".0%"});
  draw(place, "Imbalance between ranks (1 is even)", curves.imbalance, {format: ".2~f"});
  draw(place, "Time of a step", curves.time, {zero: true, format: ".2~f"});
  draw(place, "Memory", curves.memory, {zero: true, format: ".2~f"});
  draw(place, "Padding", curves.padding, {zero: true, format: ".1%"});
}

function answerOf(one) {
  const rows = [...one.said.map((said) => [`step ${said.step}, ${said.stage}`, said.text, said.text.trim() === one.expected.trim()])];
  return element("div", {class: "detail"},
    element("h3", {}, one.source), element("div", {class: "mono quiet"}, one.sample),
    element("div", {class: "segment", style: `border-color:${colourOf(DATA.sources, one.source)}`}, element("div", {class: "text"}, one.question)),
    element("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": `Answers to a question of ${one.source}`}, element("table", {},
      element("thead", {}, element("tr", {}, element("th", {scope: "col"}, "checkpoint"), element("th", {scope: "col"}, "answer"))),
      element("tbody", {}, element("tr", {}, element("th", {scope: "row"}, "expected"), element("td", {}, element("mark", {}, one.expected))),
        ...rows.map(([when, text, right]) => element("tr", {}, element("th", {scope: "row"}, when),
          element("td", {}, right ? element("mark", {}, text) : text || "(nothing)")))))));
}

function drawAnswers() {
  const source = at("answer-source").value;
  at("answer-rows").replaceChildren(...DATA.answers.filter((one) => !source || one.source === source).map(answerOf));
}

drawLosses();
drawPace();
if (DATA.answers.length) {
  choices(at("answer-source"), [...new Set(DATA.answers.map((one) => one.source))], "all");
  at("answer-controls").addEventListener("submit", (event) => event.preventDefault());
  at("answer-source").addEventListener("input", drawAnswers);
  drawAnswers();
}
