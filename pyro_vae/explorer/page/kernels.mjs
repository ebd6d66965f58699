// Markov chains that leave the posterior as it is. A kernel takes {z, value} to the next, and says what it tried:
// accept is the probability of acceptance, path the places that it looked at.

import { gradientOf } from "./derivatives.mjs";

const LINE = 81; // points along a line, for Gibbs
const LEAPS = 10; // leapfrog steps, on average

export const KERNELS = {
  // Random-walk Metropolis: a normal step, taken with probability min(1, p' / p).
  mh({ z, value }, target, { step }, random) {
    const next = [z[0] + step * random.normal(), z[1] + step * random.normal()];
    const there = target.one(next);
    const accept = Math.min(1, Math.exp(there - value));
    const taken = random.uniform() < accept;
    return { ...(taken ? { z: next, value: there } : { z, value }), taken, accept, path: [z, next] };
  },

  // Gibbs: each coordinate anew from its conditional. That is drawn from the conditional's values on a line, joined by
  // straight pieces, and accepted by the exact one, so that the line's spacing biases nothing (Ritter & Tanner 1992;
  // Gilks, Best & Tan 1995).
  gibbs(state, target, settings, random) {
    const path = [state.z];
    let { z, value } = state;
    let accept = 1;
    for (const axis of [0, 1]) {
      const found = alongLine(z, value, axis, target, random);
      accept *= found.accept;
      ({ z, value } = found);
      path.push(z);
    }
    return { z, value, taken: true, accept, path };
  },

  // Hamiltonian Monte Carlo: a momentum at random, some leapfrog steps, accepted by the energy.
  hmc({ z, value }, target, { step }, random) {
    const leaps = Math.ceil(2 * LEAPS * random.uniform());
    const p = [random.normal(), random.normal()];
    const before = value - 0.5 * (p[0] ** 2 + p[1] ** 2);
    let q = [...z];
    const path = [z];
    let g = target.gradient(q);
    for (let leap = 0; leap < leaps; leap++) {
      for (const i of [0, 1]) p[i] += 0.5 * step * g[i];
      q = [q[0] + step * p[0], q[1] + step * p[1]];
      path.push(q);
      g = target.gradient(q);
      for (const i of [0, 1]) p[i] += 0.5 * step * g[i];
      if (!Number.isFinite(g[0] + g[1] + q[0] + q[1])) break;
    }
    const there = target.one(q);
    const energy = there - 0.5 * (p[0] ** 2 + p[1] ** 2);
    const accept = Number.isFinite(energy) ? Math.min(1, Math.exp(energy - before)) : 0;
    const taken = random.uniform() < accept;
    return { ...(taken ? { z: q, value: there } : { z, value }), taken, accept, path };
  },
};

// A draw of one coordinate. The line reaches over the posterior's box, and over where the chain stands.
function alongLine(z, value, axis, target, random) {
  const low = target.low[axis];
  const high = target.high[axis];
  const step = (high - low) / (LINE - 1);
  const points = new Float64Array(2 * LINE);
  for (let i = 0; i < LINE; i++) {
    points[2 * i + axis] = low + i * step;
    points[2 * i + 1 - axis] = z[1 - axis];
  }
  const values = target.guess(points, LINE);
  const top = Math.max(...values);
  // a floor keeps a narrow peak between two points of the line reachable
  const height = values.map((v) => Math.exp(v - top) + 1e-9);
  const mass = new Float64Array(LINE);
  for (let i = 1; i < LINE; i++) mass[i] = mass[i - 1] + 0.5 * (height[i - 1] + height[i]);
  const aim = random.uniform() * mass[LINE - 1];
  let i = 1;
  while (mass[i] < aim && i < LINE - 1) i++;
  const [a, b, part] = [height[i - 1], height[i], aim - mass[i - 1]];
  const t = part / (0.5 * a + Math.sqrt(0.25 * a * a + 0.5 * (b - a) * part)); // a t + (b - a) t^2 / 2 = part
  const next = [...z];
  next[axis] = low + (i - 1 + Math.min(Math.max(0, t), 1)) * step;
  const there = target.one(next);
  const heightAt = (x) => {
    const u = (x - low) / step;
    if (u < 0 || u > LINE - 1) return 0;
    const k = Math.min(Math.floor(u), LINE - 2);
    return height[k] + (u - k) * (height[k + 1] - height[k]);
  };
  const back = heightAt(z[axis]);
  // a chain that starts outside of the line moves onto it: nothing leads back there
  const accept = back === 0 ? 1 : Math.min(1, Math.exp(there - value) * (back / heightAt(next[axis])));
  return random.uniform() < accept ? { z: next, value: there, accept } : { z, value, accept };
}

// What a kernel sees of a posterior: its log density, by which a proposal is accepted; and what may stand in for it
// where proposals are made: a leapfrog step keeps volume and goes back as it came whatever the force, and a line of
// Gibbs proposes whatever its heights.
export function makeTarget({ logJoint, guess, grid }) {
  const high = [0, 1].map((i) => grid.low[i] + (grid.n[i] - 1) * grid.step[i]);
  return {
    guess,
    low: grid.low,
    high,
    one: (z) => logJoint(Float64Array.from(z), 1)[0],
    gradient: (z) => gradientOf(guess, z),
  };
}

// Chains side by side, each with its own stream, from the same seed the same.
export function makeChains(target, { kernel, step, chains, seed }, starts, makeRandom) {
  const states = starts.slice(0, chains).map((z, c) => ({
    random: makeRandom(seed * 1000 + c),
    state: { z, value: target.one(z) },
    draws: [],
    accepts: [],
    last: null,
  }));
  return {
    states,
    advance() {
      for (const chain of states) {
        const next = KERNELS[kernel](chain.state, target, { step }, chain.random);
        chain.state = { z: next.z, value: next.value };
        chain.draws.push(next.z);
        chain.accepts.push(next.accept);
        chain.last = next;
      }
    },
  };
}
