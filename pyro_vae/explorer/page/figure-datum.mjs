// Figure 2: x is picked from the data, or drawn.

import { element, paintImage, valueText } from "./datum.mjs";

export function datumFigure(app) {
  const root = document.getElementById("datum");
  const strip = root.querySelector(".strip");
  const readout = root.querySelector(".readout");
  const { image, columns } = app.content;
  const buttons = app.model.data.map((x, row) => {
    const label = app.content.labels ? `, labelled ${app.content.labels[row]}` : "";
    const button = element("button", { type: "button", role: "radio", "aria-label": `datum ${row + 1}${label}` });
    if (image) {
      const canvas = element("canvas", { "aria-hidden": "true" });
      paintImage(canvas, x, image, app.range);
      button.append(canvas);
    } else {
      button.classList.add("word");
      button.append(String(row + 1));
    }
    button.addEventListener("click", () => app.pick(row));
    return button;
  });
  strip.append(...buttons);
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const row = (app.state.x + step + buttons.length) % buttons.length;
    app.pick(row);
    buttons[row].focus();
  });
  const pad = image && app.canDraw ? drawingPad(app, root.querySelector(".pad")) : null;

  return {
    draw() {
      const drawn = app.state.drawn !== null;
      buttons.forEach((button, row) => {
        button.setAttribute("aria-checked", String(!drawn && row === app.state.x));
        button.tabIndex = row === app.state.x ? 0 : -1;
      });
      pad?.draw();
      const name = app.content.labels && !drawn ? ` It is labelled ${app.content.labels[app.state.x]}.` : "";
      if (drawn) readout.textContent = "x is your own drawing.";
      else if (image) readout.textContent = `x is datum ${app.state.x + 1} of ${buttons.length}.${name}`;
      else {
        const words = columns.map((column) => `${column.name} ${valueText(column, app.x[column.index])}`);
        readout.textContent = `x is row ${app.state.x + 1}: ${words.join(", ")}.${name}`;
      }
    },
  };
}

// A canvas to draw x on, by mouse, finger or keys.
function drawingPad(app, root) {
  const canvas = root.querySelector("canvas");
  const [height, width] = app.content.image;
  const brush = Math.max(width, height) > 16 ? 1.2 : 0.55; // cells
  let cursor = null;
  root.hidden = false;
  [canvas.width, canvas.height] = [width, height];
  canvas.style.aspectRatio = `${width} / ${height}`;

  const pixels = () => (app.state.drawn ? Float64Array.from(app.state.drawn) : new Float64Array(width * height));
  const paint = (x, y, erase) => {
    const next = pixels();
    for (let i = 0; i < height; i++)
      for (let j = 0; j < width; j++) {
        const distance = Math.hypot(j + 0.5 - x, i + 0.5 - y);
        const ink = Math.min(Math.max(brush + 0.5 - distance, 0), 1);
        const value = app.binary ? Number(distance < brush + 0.15) : Math.round(15 * ink) / 15;
        if (value > 0) next[i * width + j] = erase ? 0 : Math.max(next[i * width + j], value);
      }
    app.drawX(next);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  let erase = false;
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const [x, y] = place(event);
    erase = pixels()[Math.floor(y) * width + Math.floor(x)] > 0.5;
    paint(x, y, erase);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) paint(...place(one), erase);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    cursor ??= [Math.floor(width / 2), Math.floor(height / 2)];
    if (way) {
      cursor = [Math.min(Math.max(cursor[0] + way[0], 0), width - 1), Math.min(Math.max(cursor[1] + way[1], 0), height - 1)];
      pad.draw();
    } else paint(cursor[0] + 0.5, cursor[1] + 0.5, pixels()[cursor[1] * width + cursor[0]] > 0.5);
  });
  canvas.addEventListener("blur", () => {
    cursor = null;
    pad.draw();
  });
  root.querySelector(".clear").addEventListener("click", () => app.drawX(new Float64Array(width * height)));

  const pad = {
    draw() {
      paintImage(canvas, pixels(), [height, width], { low: 0, high: 1 });
      root.classList.toggle("active", app.state.drawn !== null);
      if (cursor) {
        const context = canvas.getContext("2d");
        context.fillStyle = "rgba(240, 170, 60, 0.75)";
        context.fillRect(cursor[0], cursor[1], 1, 1);
      }
    },
  };
  return pad;
}
