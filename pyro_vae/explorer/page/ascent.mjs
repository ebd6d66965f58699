// Mean-field q = N(m1, s1^2) N(m2, s2^2): the gradient of its ELBO, and the climb to the best one.

import { elboOf } from "./bound.mjs";

export const meanField = ([m1, m2], [s1, s2]) => [[1, m1, m2, s1, 0, s2]];

const DIFFERENCE = 1e-4;

// One step of gradient ascent in (m, log s), with m measured in standard deviations: q with a higher ELBO.
export function ascentStep(q, logJoint, { rate = 0.25, nodes = 12 } = {}) {
  const elbo = (m, s) => elboOf(meanField(m, s), logJoint, nodes);
  const here = elbo(q.m, q.s);
  const slope = (move) => {
    const [plus, minus] = [move(DIFFERENCE), move(-DIFFERENCE)];
    return (elbo(...plus) - elbo(...minus)) / (2 * DIFFERENCE);
  };
  const at = (values, i, value) => values.map((old, j) => (j === i ? value : old));
  const gm = [0, 1].map((i) => slope((e) => [at(q.m, i, q.m[i] + e * q.s[i]), q.s]));
  const gs = [0, 1].map((i) => slope((e) => [q.m, at(q.s, i, q.s[i] * Math.exp(e))]));
  const size = Math.hypot(...gm, ...gs);
  let step = Math.min(2 * rate, 1 / Math.max(size, 1e-12));
  for (let tries = 0; tries < 30; tries++, step /= 2) {
    const next = {
      m: q.m.map((value, i) => value + step * gm[i] * q.s[i]),
      s: q.s.map((value, i) => value * Math.exp(0.5 * step * gs[i])),
    };
    const value = elbo(next.m, next.s);
    if (value > here) return { ...next, elbo: value, gradient: size };
  }
  return { ...q, elbo: here, gradient: size };
}

// The highest ELBO that a mean-field q reaches from any of some starts.
export function* bestMeanField(starts, logJoint, rounds = 150) {
  let best = null;
  for (const start of starts) {
    let q = { ...start, elbo: -Infinity };
    for (let round = 0; round < rounds; round++) {
      const next = ascentStep(q, logJoint);
      const gain = next.elbo - q.elbo;
      q = next;
      yield;
      if (gain < 1e-7) break;
    }
    if (!best || q.elbo > best.elbo) best = q;
  }
  return best;
}
