"use strict";
// What the reports' scripts share: elements whose text is text, colours of names, and the charts.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#4269d0", "#d99a00", "#e0563f", "#2fa58f", "#3c9a4b", "#d9609a", "#9555e0", "#5d8fd6", "#9c6b4e", "#808890"];

/** An element with attributes and children; a string among the children is text, never markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key === "onclick" || key === "onchange" || key === "oninput") made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const whole = (number) => number.toLocaleString("en-US");
const colourOf = (names, name) => COLOURS[Math.max(0, names.indexOf(name)) % COLOURS.length];
const colours = (names) => ({domain: names, range: names.map((name) => colourOf(names, name))});

/** Names with the colours that they have among all. */
function legend(names, all = names) {
  return element("ul", {class: "legend"}, ...names.map((name) =>
    element("li", {}, element("span", {style: `background:${colourOf(all, name)}`}), name)));
}

/** A chart in a figure, with what it shows in words for those who cannot see it. */
function chart(title, description, options, ...beside) {
  const drawn = Plot.plot({marginLeft: 60, style: {background: "transparent", fontSize: "12px"}, ...options});
  const picture = drawn.tagName.toLowerCase() === "svg" ? drawn : drawn.querySelector("svg");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `${title}. ${description}`);
  return element("figure", {}, element("h3", {}, title), ...beside, drawn, element("figcaption", {}, description));
}

/** A figure's width in pixels: what there is, so that the letters of a phone's are not small. */
const widthOf = (place, most) => Math.max(280, Math.min(most, place.clientWidth || most));

/** Options of a <select>. */
function choices(select, names, all) {
  select.replaceChildren(...(all ? [element("option", {value: ""}, all)] : []),
    ...names.map((name) => element("option", {value: name}, name)));
}

/** The same of one column of a grid. */
const columnOf = (grid) => Math.max(260, Math.min(620, parseFloat(getComputedStyle(grid).gridTemplateColumns) || 430));
