// The exact posterior of one x: log p(x, z) on a grid over its mass, refined until the sum stands still.
//
// Long work is a generator, which yields so that the page may draw in between: see work.mjs.

import { climb } from "./derivatives.mjs";
import { standIn } from "./interpolation.mjs";
import { pointsAtOnce } from "./work.mjs";

const DEPTH = 26; // nats below the top at which a grid ends
const SURVEY_COST = 1.5e9; // multiplications that the survey of the plane may take
const FINEST_COST = 4e9; // and one grid
const MOST_POINTS = 600_000;
const CHEAP = 4e4; // multiplications a point, up to which the decoder is asked for everything
// What halving the spacing may change. The sum of a smooth density converges geometrically, the next change is about
// the square of this; with kinks it is a quarter.
const CHANGE = 1e-4;

export function lattice([low1, low2], [high1, high2], n1, n2) {
  return { low: [low1, low2], step: [(high1 - low1) / (n1 - 1), (high2 - low2) / (n2 - 1)], n: [n1, n2] };
}

export function pointsOf({ low, step, n }) {
  const z = new Float64Array(2 * n[0] * n[1]);
  for (let i = 0, k = 0; i < n[0]; i++)
    for (let j = 0; j < n[1]; j++) {
      z[k++] = low[0] + i * step[0];
      z[k++] = low[1] + j * step[1];
    }
  return z;
}

// Values of f(points, n) at all points of a lattice, some at a time.
function* evaluated(grid, f, cost) {
  const z = pointsOf(grid);
  const total = grid.n[0] * grid.n[1];
  const values = new Float64Array(total);
  const size = pointsAtOnce(cost);
  for (let at = 0; at < total; at += size) {
    const n = Math.min(size, total - at);
    values.set(f(z.subarray(2 * at, 2 * (at + n)), n), at);
    yield;
  }
  return { ...grid, values };
}

// What the decoder says over the whole plane, once for all x.
export function* surveyOf(model) {
  const { low, high } = model.prior;
  const side = Math.min(Math.max(Math.floor(Math.sqrt(SURVEY_COST / model.cost)), 25), 97);
  const grid = lattice(low, high, side, side);
  const z = pointsOf(grid);
  const total = side * side;
  const size = pointsAtOnce(model.cost);
  const pieces = [];
  for (let at = 0; at < total; at += size) {
    const n = Math.min(size, total - at);
    const outputs = model.likelihood.outputs(z.subarray(2 * at, 2 * (at + n)), n);
    pieces.push({ at, n, outputs: outputs.map((part) => Float32Array.from(part)) });
    yield;
  }
  return { ...grid, pieces, logPrior: model.prior.logp(z, total) };
}

// log p(x|z) over the survey.
export function surveyLikelihood(model, survey, x) {
  const values = new Float64Array(survey.n[0] * survey.n[1]);
  for (const { at, n, outputs } of survey.pieces) values.set(model.likelihood.logp(outputs, n, x), at);
  return values;
}

// The posterior: {grid, logEvidence, mean, covariance, modes, logLikelihood of the survey, logJoint}; `change` is what
// the last halving of the spacing changed, and `guess` stands in for logJoint where that is slow.
export function* exactPosterior(model, survey, x) {
  const f = (z, n) => model.logJoint(x, z, n);
  const logLikelihood = surveyLikelihood(model, survey, x);
  const coarse = { ...survey, values: logLikelihood.map((value, k) => value + survey.logPrior[k]) };
  yield;
  const modes = [];
  for (const start of localTops(coarse)) {
    const top = climb(f, start);
    if (modes.every(({ z }) => Math.hypot(z[0] - top.z[0], z[1] - top.z[1]) > 1e-3)) modes.push(top);
    yield;
  }
  modes.sort((a, b) => b.value - a.value);
  let box = united(boxOf(coarse, modes[0].value), modes);
  let grid = null;
  for (let round = 0; round < 8; round++) {
    const counts = [0, 1].map((i) => resolving(box, modes, i));
    grid = yield* evaluated(lattice(box.low, box.high, ...counts), f, model.cost);
    const next = boxOf(grid, Math.max(...grid.values));
    const grows = [0, 1].some((i) => next.low[i] < box.low[i] || next.high[i] > box.high[i]);
    const shrinks = [0, 1].some((i) => next.high[i] - next.low[i] < 0.75 * (box.high[i] - box.low[i]));
    if (!grows && !shrinks) break;
    box = united(next, modes);
  }
  let found = summary(grid);
  let change = difference(found, summary(everySecond(grid)));
  while (change > CHANGE && 4 * grid.n[0] * grid.n[1] * model.cost < FINEST_COST) {
    const [n1, n2] = grid.n.map((n) => 2 * n - 1);
    if (n1 * n2 > MOST_POINTS) break;
    const high = [0, 1].map((i) => grid.low[i] + (grid.n[i] - 1) * grid.step[i]);
    grid = yield* evaluated(lattice(grid.low, high, n1, n2), f, model.cost);
    const finer = summary(grid);
    change = difference(finer, found);
    found = finer;
  }
  const guess = model.cost < CHEAP ? f : standIn(grid, coarse);
  return { grid, ...found, change, modes, logLikelihood, logJoint: f, guess };
}

// How far evidence, means and variances, in units of the posterior's own width, move from one sum to another.
function difference(one, other) {
  const moved = [0, 1].flatMap((i) => [
    (one.mean[i] - other.mean[i]) / Math.sqrt(one.covariance[i][i]),
    (one.covariance[i][i] - other.covariance[i][i]) / one.covariance[i][i],
  ]);
  return Math.max(Math.abs(one.logEvidence - other.logEvidence), ...moved.map(Math.abs));
}

// A lattice of odd sides without every second row and column.
function everySecond({ low, step, n, values }) {
  const size = n.map((count) => (count + 1) / 2);
  const kept = new Float64Array(size[0] * size[1]);
  for (let i = 0, k = 0; i < size[0]; i++) for (let j = 0; j < size[1]; j++) kept[k++] = values[2 * i * n[1] + 2 * j];
  return { low, step: step.map((value) => 2 * value), n: size, values: kept };
}

// Log evidence, mean and covariance by the trapezoidal rule.
export function summary(grid) {
  const { low, step, n, values } = grid;
  let top = -Infinity;
  for (const value of values) if (value > top) top = value;
  let [mass, m1, m2, s11, s12, s22] = [0, 0, 0, 0, 0, 0];
  for (let i = 0, k = 0; i < n[0]; i++) {
    const x = low[0] + i * step[0];
    for (let j = 0; j < n[1]; j++, k++) {
      const y = low[1] + j * step[1];
      const w = Math.exp(values[k] - top);
      mass += w;
      m1 += w * x;
      m2 += w * y;
      s11 += w * x * x;
      s12 += w * x * y;
      s22 += w * y * y;
    }
  }
  const mean = [m1 / mass, m2 / mass];
  const c12 = s12 / mass - mean[0] * mean[1];
  return {
    logEvidence: top + Math.log(mass * step[0] * step[1]),
    mean,
    covariance: [[s11 / mass - mean[0] ** 2, c12], [c12, s22 / mass - mean[1] ** 2]],
  };
}

// Where a lattice is higher than at its neighbours: the highest five within 60 nats.
function localTops({ low, step, n, values }) {
  const found = [];
  for (let i = 0; i < n[0]; i++)
    for (let j = 0; j < n[1]; j++) {
      const value = values[i * n[1] + j];
      let top = true;
      for (let a = Math.max(i - 1, 0); a <= Math.min(i + 1, n[0] - 1) && top; a++)
        for (let b = Math.max(j - 1, 0); b <= Math.min(j + 1, n[1] - 1); b++)
          if (values[a * n[1] + b] > value) top = false;
      if (top) found.push({ value, z: [low[0] + i * step[0], low[1] + j * step[1]] });
    }
  found.sort((a, b) => b.value - a.value);
  return found.filter(({ value }) => value > found[0].value - 60).slice(0, 5).map(({ z }) => z);
}

// The box of what lies within DEPTH of the top, two cells wider; wider still where that touches the lattice's edge.
function boxOf({ low, step, n, values }, top) {
  const first = [n[0], n[1]];
  const last = [-1, -1];
  for (let i = 0, k = 0; i < n[0]; i++)
    for (let j = 0; j < n[1]; j++, k++)
      if (values[k] > top - DEPTH) {
        [i, j].forEach((at, axis) => {
          first[axis] = Math.min(first[axis], at);
          last[axis] = Math.max(last[axis], at);
        });
      }
  const sides = [0, 1].map((axis) => {
    if (last[axis] < 0) return null;
    const wide = 0.25 * (n[axis] - 1);
    const from = first[axis] === 0 ? -wide : first[axis] - 2;
    const to = last[axis] === n[axis] - 1 ? n[axis] - 1 + wide : last[axis] + 2;
    const clipped = [Math.max(from, first[axis] === 0 ? from : 0), Math.min(to, last[axis] === n[axis] - 1 ? to : n[axis] - 1)];
    return clipped.map((at) => low[axis] + at * step[axis]);
  });
  return { low: sides.map((side) => side?.[0] ?? Infinity), high: sides.map((side) => side?.[1] ?? -Infinity) };
}

// The box, with seven standard deviations around every top that is not far below the highest.
function united(box, modes) {
  const [low, high] = [[...box.low], [...box.high]];
  for (const { z, value, covariance } of modes) {
    if (!covariance || value < modes[0].value - DEPTH) continue;
    for (const i of [0, 1]) {
      const reach = Math.min(7 * Math.sqrt(covariance[i][i]), 3);
      low[i] = Math.min(low[i], z[i] - reach);
      high[i] = Math.max(high[i], z[i] + reach);
    }
  }
  return { low, high };
}

// Points along an axis that resolve the narrowest top.
function resolving(box, modes, i) {
  const widths = modes.filter(({ covariance }) => covariance).map(({ hessian }) => 1 / Math.sqrt(-hessian[i][i]));
  const narrow = Math.min(...widths, (box.high[i] - box.low[i]) / 24);
  const count = Math.min(Math.max(Math.ceil((box.high[i] - box.low[i]) / (0.7 * narrow)) + 1, 33), 193);
  return count + 1 - (count % 2); // odd, so that every second point can be left out
}
