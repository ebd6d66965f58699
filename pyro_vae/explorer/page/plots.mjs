// Small line plots: running means, and autocorrelation.

import { fixed } from "./format.mjs";
import { colour, prepared } from "./plane.mjs";

function frame(canvas, [low, high], ticks, count) {
  const { context, width, height } = prepared(canvas);
  const [left, right, top, bottom] = [34, width - 6, 6, height - 18];
  const x = (t) => left + (t / Math.max(count - 1, 1)) * (right - left);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  context.font = "11px system-ui, sans-serif";
  context.lineWidth = 1;
  for (const tick of ticks) {
    context.strokeStyle = colour("line");
    context.beginPath();
    context.moveTo(left, y(tick));
    context.lineTo(right, y(tick));
    context.stroke();
    context.fillStyle = colour("soft");
    context.textAlign = "right";
    context.fillText(fixed(tick, high - low < 0.5 ? 2 : 1), left - 5, y(tick) + 4);
  }
  return { context, x, y, left, right, bottom };
}

function line({ context, x, y }, values, style, dash = []) {
  context.save();
  context.beginPath();
  values.forEach((value, t) => (t ? context.lineTo(x(t), y(value)) : context.moveTo(x(t), y(value))));
  context.strokeStyle = style;
  context.lineWidth = 1.8;
  context.setLineDash(dash);
  context.stroke();
  context.restore();
}

export function plotRunning(canvas, means, exact, [low, high]) {
  const count = Math.max(means[0].length, 2);
  const step = (high - low) / 4;
  const ticks = [0, 1, 2, 3, 4].map((k) => low + k * step);
  const plot = frame(canvas, [low, high], ticks, count);
  const names = ["accent", "kl"];
  means.forEach((values, i) => {
    line(plot, [exact[i], ...Array(count - 1).fill(exact[i])], colour(names[i]), [5, 4]);
    const inside = values.map((value) => Math.min(Math.max(value, low), high));
    if (inside.length) line(plot, inside, colour(names[i]));
  });
  plot.context.fillStyle = colour("soft");
  plot.context.textAlign = "right";
  plot.context.fillText(`${means[0].length} draws`, plot.right, plot.bottom + 14);
}

export function plotLags(canvas, correlation, most) {
  const plot = frame(canvas, [-0.3, 1], [0, 0.5, 1], most + 1);
  const { context, x, y } = plot;
  context.fillStyle = colour("posterior");
  correlation.forEach((value, lag) => {
    const [a, b] = [y(Math.max(value, 0)), y(Math.min(value, 0))];
    context.fillRect(x(lag) - 2, a, 4, Math.max(b - a, 1));
  });
  context.fillStyle = colour("soft");
  context.textAlign = "right";
  context.fillText(`lag ${most}`, plot.right, plot.bottom + 14);
}
