// A datum on the screen: an image on a canvas, or a row of named columns with small bars.

import { fixed, percent, short } from "./format.mjs";

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A grey image, white on black, of values between low and high.
export function paintImage(canvas, pixels, [height, width], { low, high }) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let k = 0; k < pixels.length; k++) {
    const missing = Number.isNaN(pixels[k]);
    const grey = Math.round(255 * Math.min(Math.max((pixels[k] - low) / (high - low), 0), 1));
    image.data.set(missing ? [120, 70, 70, 255] : [grey, grey, grey, 255], 4 * k);
  }
  context.putImageData(image, 0, 0);
}

// A value of a column in the table's own units.
export function inUnits(column, value) {
  const levels = column.levels;
  if (!levels) return value * column.scale + column.loc;
  const at = Math.min(Math.max(value, 0), levels.length - 1);
  const below = Math.min(Math.floor(at), levels.length - 2);
  return levels.length < 2 ? levels[0] : levels[below] + (at - below) * (levels[below + 1] - levels[below]);
}

// Mean and standard deviation of a column in its own units; of words the probabilities.
export function described(column, { mean, sd, probabilities }) {
  const words = column.words ?? (probabilities?.length === 2 && !column.levels ? ["0", "1"] : null);
  if (probabilities && words) return { words, probabilities: probabilities.slice(0, words.length) };
  if (probabilities && column.levels) {
    const values = column.levels.map((level, k) => [level, probabilities[k] ?? 0]);
    const centre = values.reduce((sum, [level, p]) => sum + p * level, 0);
    const square = values.reduce((sum, [level, p]) => sum + p * (level - centre) ** 2, 0);
    return { mean: centre, sd: Math.sqrt(square) };
  }
  return { mean: inUnits(column, mean), sd: sd * Math.abs(column.scale) };
}

export const valueText = (column, value) =>
  Number.isNaN(value) ? "missing" : column.words ? (column.words[value] ?? String(value)) : short(inUnits(column, value));

// A table of what p(x|z) says of each column; `x` is what was observed, or null.
export function paintRow(place, columns, decoded, x) {
  const rows = columns.flatMap((column) => {
    const said = described(column, decoded[column.index]);
    const head = element("tr", {}, element("th", { scope: "row" }, column.name));
    const track = element("tr", { class: "track" });
    const cell = element("td", { colspan: "2" });
    track.append(cell);
    if (said.probabilities) {
      const best = said.probabilities.indexOf(Math.max(...said.probabilities));
      head.append(element("td", {}, `${said.words[best]} ${percent(said.probabilities[best])}`));
      cell.append(shares(said.probabilities, said.words));
    } else {
      head.append(element("td", {}, `${short(said.mean)} ± ${short(said.sd)}`));
      cell.append(interval(column, said, x));
    }
    if (x) track.title = `observed: ${valueText(column, x[column.index])}`;
    return [head, track];
  });
  place.replaceChildren(element("table", { class: "columns" }, ...rows));
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Mean and one standard deviation to both sides, over the range of the data; a tick where x is.
function interval(column, { mean, sd }, x) {
  const [low, high] = [inUnits(column, column.low), inUnits(column, column.high)];
  const at = (value) => `${Math.min(Math.max((100 * (value - low)) / (high - low || 1), 0), 100)}%`;
  const drawing = svg("svg", { "aria-hidden": "true" });
  drawing.append(svg("line", { x1: "0%", x2: "100%", y1: 7, y2: 7, stroke: "var(--line)", "stroke-width": 2 }));
  const reach = { x1: at(mean - sd), x2: at(mean + sd), y1: 7, y2: 7, stroke: "var(--q)", "stroke-width": 6, opacity: 0.55 };
  drawing.append(svg("line", reach));
  drawing.append(svg("circle", { cx: at(mean), cy: 7, r: 4, fill: "var(--q)" }));
  if (x && !Number.isNaN(x[column.index])) {
    const tick = at(inUnits(column, x[column.index]));
    drawing.append(svg("line", { x1: tick, x2: tick, y1: 0, y2: 14, stroke: "var(--posterior)", "stroke-width": 2 }));
  }
  return drawing;
}

function shares(probabilities, words) {
  const drawing = svg("svg", { role: "img" });
  drawing.setAttribute("aria-label", probabilities.map((p, k) => `${words[k]} ${percent(p)}`).join(", "));
  let begin = 0;
  probabilities.forEach((p, k) => {
    const bar = { x: `${100 * begin}%`, width: `${100 * p}%`, y: 2, height: 10, fill: "var(--q)", opacity: fixed(0.85 - (0.6 * k) / words.length, 2) };
    drawing.append(svg("rect", { ...bar, stroke: "var(--paper)" }));
    begin += p;
  });
  return drawing;
}
