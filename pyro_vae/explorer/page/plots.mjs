// Small plots: running means, autocorrelation, and the bar of ELBO and KL.

import { fixed } from "./format.mjs";
import { colour, niceStep, prepared } from "./plane.mjs";

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
    context.fillText(fixed(tick, ticks[1] - ticks[0] < 0.1 ? 2 : 1), left - 5, y(tick) + 4);
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
  const step = niceStep((high - low) / 5);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step);
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

// ELBO and KL side by side, up to log p(x): the right end is a number of x, and stays where it is.
export function plotBound(canvas, { elbo, kl }, logEvidence, shift) {
  const { context, width } = prepared(canvas);
  const span = [1, 3, 10, 30, 100, 300, 1000, 1e4, 1e5].find((nats) => nats > 1.15 * kl) ?? 1e6;
  const [left, right, top, height] = [1, width - 60, 22, 28];
  const at = (value) => right + ((value - logEvidence) / span) * (right - left);
  const edge = Math.max(at(elbo), left);
  context.fillStyle = colour("q");
  context.globalAlpha = 0.85;
  context.fillRect(left, top, edge - left, height);
  context.fillStyle = colour("kl");
  context.fillRect(edge, top, Math.max(right - edge, 0), height);
  context.globalAlpha = 1;
  context.fillStyle = colour("ink");
  context.fillRect(right - 1, top - 8, 2, height + 16);
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillText("log p(x)", Math.min(right + 50, width - 1), top - 10);
  context.fillStyle = colour("paper");
  context.textAlign = "left";
  if (edge - left > 60) context.fillText("ELBO", left + 8, top + 18);
  if (right - edge > 34) context.fillText("KL", edge + 8, top + 18);
  context.fillStyle = colour("soft");
  context.font = "11px system-ui, sans-serif";
  const step = span / (span.toString().startsWith("3") ? 3 : 5);
  for (let back = 0; back <= span + 1e-9; back += step) {
    const x = at(logEvidence - back);
    context.textAlign = back === 0 ? "center" : x < 20 ? "left" : "center";
    context.fillText(fixed(logEvidence + shift - back, span < 10 ? 1 : 0), x, top + height + 20);
  }
}
