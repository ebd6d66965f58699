// Both terms of log p(x) = ELBO + KL(q || p(z|x)) for a q made of Gaussians, by two rules that share no node:
// the ELBO by Gauss and Hermite's, KL by the trapezoidal rule against the exact posterior. That they add up to
// log p(x) is then a finding, not a definition.

import { makeMixture } from "./gaussian.mjs";
import { LOG_2PI } from "./special.mjs";
import { finish } from "./work.mjs";

const WIDTH = 6.5; // standard deviations that the trapezoidal rule covers
const STILL = 1e-5; // nats that a finer rule may change
const rules = new Map();

// Nodes and weights of the standard normal: E f = sum w f(node), exact for polynomials below degree 2 n.
export function gaussHermite(n) {
  if (!rules.has(n)) rules.set(n, hermiteRule(n));
  return rules.get(n);
}

function hermiteRule(n) {
  const nodes = new Float64Array(n);
  const weights = new Float64Array(n);
  // polynomials of the standard normal, normalised: sqrt(k + 1) h_{k+1} = x h_k - sqrt(k) h_{k-1}
  const polynomials = (x) => {
    let [before, here] = [0, 1];
    let squares = 1;
    for (let k = 0; k < n; k++) {
      [before, here] = [here, (x * here - Math.sqrt(k) * before) / Math.sqrt(k + 1)];
      if (k + 1 < n) squares += here * here;
    }
    return { here, slope: Math.sqrt(n) * before, squares };
  };
  // between two zeros the polynomial changes its sign: look for that, then halve
  const end = Math.sqrt(4 * n + 2);
  let count = 0;
  const fine = 400 * n;
  let [a, value] = [-end, polynomials(-end).here];
  for (let i = 1; i <= fine && count < n; i++) {
    const b = -end + (2 * end * i) / fine;
    const next = polynomials(b).here;
    if (value < 0 !== next < 0) { // a zero on a point of the search is counted once
      let x = (a + b) / 2;
      for (let round = 0; round < 20; round++) {
        const { here, slope } = polynomials(x);
        x -= here / slope;
      }
      nodes[count] = x;
      weights[count] = 1 / polynomials(x).squares;
      count += 1;
    }
    [a, value] = [b, next];
  }
  return { nodes, weights };
}

// Points and weights of a square rule in the frame of one Gaussian.
function framed([, m1, m2, t11, t21, t22], { nodes, weights }) {
  const n = nodes.length;
  const z = new Float64Array(2 * n * n);
  const w = new Float64Array(n * n);
  for (let i = 0, k = 0; i < n; i++)
    for (let j = 0; j < n; j++, k++) {
      z[2 * k] = m1 + t11 * nodes[i];
      z[2 * k + 1] = m2 + t21 * nodes[i] + t22 * nodes[j];
      w[k] = weights[i] * weights[j];
    }
  return { z, w, n: n * n };
}

function trapezoid(n) {
  const nodes = Float64Array.from({ length: n }, (_, i) => -WIDTH + (2 * WIDTH * i) / (n - 1));
  const step = (2 * WIDTH) / (n - 1);
  return { nodes, weights: nodes.map((x) => step * Math.exp(-0.5 * x * x - 0.5 * LOG_2PI)) };
}

// E_q f by a rule in the frame of each Gaussian, some points at a time.
function* expectation(components, rule, f, size) {
  let sum = 0;
  for (const component of components) {
    const { z, w, n } = framed(component, rule);
    for (let at = 0; at < n; at += size) {
      const count = Math.min(size, n - at);
      const values = f(z.subarray(2 * at, 2 * (at + count)), count);
      for (let k = 0; k < count; k++) sum += component[0] * w[at + k] * values[k];
      yield;
    }
  }
  return sum;
}

// ELBO = E_q[log p(x, z)] + the entropy of q, which of one Gaussian is known.
function* elboWork(components, logJoint, nodes, size) {
  const rule = gaussHermite(nodes);
  if (components.length === 1) {
    const [[, , , t11, , t22]] = components;
    return (yield* expectation(components, rule, logJoint, size)) + 1 + LOG_2PI + Math.log(t11) + Math.log(t22);
  }
  const q = makeMixture(components);
  const ratio = (z, n) => {
    const values = logJoint(z, n);
    const own = q.logp(z, n);
    return values.map((value, k) => value - own[k]);
  };
  return yield* expectation(components, rule, ratio, size);
}

// KL(q || p(z|x)) = E_q[log q(z) - log p(z|x)], with p(z|x) = p(x, z) / p(x) of the exact grid.
function* klWork(components, logJoint, logEvidence, nodes, size) {
  const q = makeMixture(components);
  const ratio = (z, n) => {
    const own = q.logp(z, n);
    const joint = logJoint(z, n);
    return own.map((value, k) => value - (joint[k] - logEvidence));
  };
  return yield* expectation(components, trapezoid(nodes), ratio, size);
}

export const elboOf = (components, logJoint, nodes = 20) => finish(elboWork(components, logJoint, nodes, Infinity));

export const klOf = (components, logJoint, logEvidence, nodes = 41) =>
  finish(klWork(components, logJoint, logEvidence, nodes, Infinity));

// Both terms, refined until they stand still. `effort` is the most points that one rule may take, `size` how many are
// asked for between two yields.
export function* boundWork(components, logJoint, logEvidence, { effort = 20_000, size = Infinity } = {}) {
  let [nodes, found] = [12, null];
  for (;;) {
    const elbo = yield* elboWork(components, logJoint, nodes, size);
    const kl = yield* klWork(components, logJoint, logEvidence, 2 * nodes + 1, size);
    const still = found && Math.abs(elbo - found.elbo) < STILL && Math.abs(kl - found.kl) < STILL;
    found = { elbo, kl, remainder: logEvidence - elbo - kl };
    nodes = Math.round(1.5 * nodes);
    if (still || components.length * (2 * nodes + 1) ** 2 > effort || nodes > 90) return found;
  }
}

export const boundOf = (...values) => finish(boundWork(...values));
