// A canvas that shows a square piece of the latent plane: densities, axes, points, ellipses; drags and arrow keys.

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Colours of classes: Okabe and Ito's, in an order that tells digits apart, by light and dark alike.
const CLASSES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7fd6", "#7f8c1f", "#b04a5a", "#7d8790"];
export const classColour = (number) => CLASSES[number % CLASSES.length];

// The smallest of 1, 2 and 5 times a power of ten that is no smaller than a number.
export function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((value) => value >= rough * (1 - 1e-9));
}

// The context of a canvas whose pixels are those of the screen; sizes are then in CSS pixels.
export function prepared(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.lineJoin = "round";
  return { context, width, height };
}

// A picture of exp(values - top), in one colour, darker where it is higher.
export function densityImage({ n, values }, name, power = 0.6) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = n;
  const probe = canvas.getContext("2d");
  probe.fillStyle = colour(name);
  probe.fillRect(0, 0, 1, 1);
  const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
  const image = probe.createImageData(n[0], n[1]);
  let top = -Infinity;
  for (const value of values) if (value > top) top = value;
  for (let i = 0; i < n[0]; i++)
    for (let j = 0; j < n[1]; j++) {
      const at = 4 * ((n[1] - 1 - j) * n[0] + i);
      image.data[at] = red;
      image.data[at + 1] = green;
      image.data[at + 2] = blue;
      image.data[at + 3] = 235 * Math.exp(power * (values[i * n[1] + j] - top));
    }
  probe.putImageData(image, 0, 0);
  return canvas;
}

export class Plane {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.view = view; // {centre, half}: the square that is shown
  }

  // Clears the canvas and draws the axes.
  begin() {
    const { context, width } = prepared(this.canvas);
    this.context = context;
    this.size = width;
    this.axes();
    return context;
  }

  toScreen([x, y]) {
    const { centre, half } = this.view;
    const scale = this.size / (2 * half);
    return [(x - centre[0] + half) * scale, (centre[1] + half - y) * scale];
  }

  toPlane([x, y]) {
    const { centre, half } = this.view;
    const size = this.canvas.getBoundingClientRect().width;
    return [centre[0] - half + (2 * half * x) / size, centre[1] + half - (2 * half * y) / size];
  }

  axes() {
    const { context, size, view } = this;
    const step = niceStep(view.half / 2);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    context.strokeStyle = colour("line");
    context.fillStyle = colour("soft");
    context.lineWidth = 1;
    context.font = "11px system-ui, sans-serif";
    for (const axis of [0, 1]) {
      const first = Math.ceil((view.centre[axis] - view.half) / step);
      for (let k = first; k * step <= view.centre[axis] + view.half; k++) {
        const place = [...view.centre];
        place[axis] = k * step;
        const at = Math.round(this.toScreen(place)[axis]) + 0.5;
        context.beginPath();
        context.moveTo(axis ? 0 : at, axis ? at : 0);
        context.lineTo(axis ? size : at, axis ? at : size);
        context.stroke();
        const label = (k * step).toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
        if (at < 20 || at > size - 20) continue;
        if (axis) context.fillText(label, 4, at - 3);
        else context.fillText(label, at + 3, size - 5);
      }
    }
    context.font = "italic 13px Georgia, serif";
    context.fillText("z₁", size - 18, size - 6);
    context.fillText("z₂", 5, 15);
  }

  // A picture of a lattice in its place.
  image(picture, { low, step, n }, alpha = 1) {
    if (alpha <= 0) return;
    const { context } = this;
    const [left, bottom] = this.toScreen([low[0] - step[0] / 2, low[1] - step[1] / 2]);
    const [right, top] = this.toScreen([low[0] + (n[0] - 0.5) * step[0], low[1] + (n[1] - 0.5) * step[1]]);
    context.save();
    context.globalAlpha = alpha;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, left, top, right - left, bottom - top);
    context.restore();
  }

  dot(z, { fill, radius = 4, ring = null, alpha = 1 }) {
    const { context } = this;
    const [x, y] = this.toScreen(z);
    context.save();
    context.globalAlpha = alpha;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = fill;
    context.fill();
    if (ring) {
      context.strokeStyle = ring;
      context.lineWidth = 2;
      context.stroke();
    }
    context.restore();
  }

  // The line that holds a share of a Gaussian's mass.
  ellipse([, m1, m2, t11, t21, t22], share, { stroke, width = 2, dash = [] }) {
    const radius = Math.sqrt(-2 * Math.log(1 - share));
    const places = Array.from({ length: 91 }, (_, k) => {
      const [a, b] = [radius * Math.cos((k * Math.PI) / 45), radius * Math.sin((k * Math.PI) / 45)];
      return [m1 + t11 * a, m2 + t21 * a + t22 * b];
    });
    this.path(places, { stroke, width, dash });
  }

  path(places, { stroke, width = 1.5, alpha = 1, dash = [] }) {
    const { context } = this;
    context.save();
    context.globalAlpha = alpha;
    context.beginPath();
    places.forEach((z, k) => {
      const [x, y] = this.toScreen(z);
      if (k) context.lineTo(x, y);
      else context.moveTo(x, y);
    });
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.stroke();
    context.restore();
  }

  // Calls grab(z, distance) at the start of a drag, and drag(z) along it; distance(w) is in CSS pixels.
  onDrag(grab, drag) {
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      const at = place(event);
      const distance = (w) => Math.hypot(...this.toScreen(w).map((value, i) => value - at[i]));
      if (!grab(this.toPlane(at), distance)) return;
      event.preventDefault();
      this.canvas.focus({ preventScroll: true });
      this.canvas.setPointerCapture(event.pointerId);
      const move = (next) => drag(this.toPlane(place(next)));
      const stop = () => {
        this.canvas.removeEventListener("pointermove", move);
        this.canvas.removeEventListener("pointerup", stop);
        this.canvas.removeEventListener("pointercancel", stop);
      };
      this.canvas.addEventListener("pointermove", move);
      this.canvas.addEventListener("pointerup", stop);
      this.canvas.addEventListener("pointercancel", stop);
    });
  }

  // Calls move([dx, dy], event) in units of the plane when an arrow key is pressed.
  onArrows(move) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    this.canvas.addEventListener("keydown", (event) => {
      const way = ways[event.key];
      if (!way || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const size = this.view.half / (event.altKey ? 200 : 40);
      move(way.map((value) => value * size), event);
    });
  }
}
