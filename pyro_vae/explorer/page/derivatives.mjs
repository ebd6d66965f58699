// Derivatives of a log density by differences of fourth order, and Newton's climb to its top.

import { inverse } from "./gaussian.mjs";

const STEP = 4e-3;
const NOTHING_LEFT = 1e-12; // nats that another step of Newton's promises
const OFFSETS = [
  [0, 0], [1, 0], [-1, 0], [2, 0], [-2, 0], [0, 1], [0, -1], [0, 2], [0, -2],
  [1, 1], [-1, -1], [1, -1], [-1, 1], [2, 2], [-2, -2], [2, -2], [-2, 2],
];

// Value, gradient and matrix of second derivatives of f(points, n) at a place.
export function differentiate(f, [x, y], step = STEP) {
  const points = Float64Array.from(OFFSETS.flatMap(([a, b]) => [x + a * step, y + b * step]));
  const v = f(points, OFFSETS.length);
  const first = (p1, m1, p2, m2) => (8 * (v[p1] - v[m1]) - (v[p2] - v[m2])) / (12 * step);
  const second = (p1, m1, p2, m2) => (16 * (v[p1] + v[m1]) - (v[p2] + v[m2]) - 30 * v[0]) / (12 * step * step);
  const near = v[9] + v[10] - v[11] - v[12];
  const far = v[13] + v[14] - v[15] - v[16];
  const mixed = (16 * near - far) / (48 * step * step);
  return {
    value: v[0],
    gradient: [first(1, 2, 3, 4), first(5, 6, 7, 8)],
    hessian: [[second(1, 2, 3, 4), mixed], [mixed, second(5, 6, 7, 8)]],
  };
}

// The gradient alone, for a chain that takes many.
export function gradientOf(f, [x, y], step = 1e-4) {
  const v = f(Float64Array.of(x + step, y, x - step, y, x, y + step, x, y - step), 4);
  return [(v[0] - v[1]) / (2 * step), (v[2] - v[3]) / (2 * step)];
}

// Climb from a place to the top nearby: Newton's steps where the density is concave, gradient steps elsewhere, halved
// until they rise. Returns {z, value, hessian, covariance}: covariance is null if the top is none.
export function climb(f, start, rounds = 60) {
  let z = [...start];
  let here = differentiate(f, z);
  for (let round = 0; round < rounds; round++) {
    const [g1, g2] = here.gradient;
    const step = newtonStep(here);
    if (g1 * step[0] + g2 * step[1] < NOTHING_LEFT) break;
    let size = 1;
    let next = null;
    for (; size > 1e-6; size /= 2) {
      const place = [z[0] + size * step[0], z[1] + size * step[1]];
      const value = f(Float64Array.from(place), 1)[0];
      if (value > here.value) {
        next = place;
        break;
      }
    }
    if (!next) break;
    z = next;
    here = differentiate(f, z);
  }
  const negative = here.hessian.map((row) => row.map((value) => -value));
  const concave = negative[0][0] > 0 && negative[0][0] * negative[1][1] - negative[0][1] ** 2 > 0;
  return { z, value: here.value, hessian: here.hessian, covariance: concave ? inverse(negative) : null };
}

function newtonStep({ gradient: [g1, g2], hessian: [[a, b], [, c]] }) {
  const lowest = (-(a + c)) / 2 - Math.hypot((a - c) / 2, b); // smallest eigenvalue of the negative
  const shift = lowest > 1e-3 ? 0 : 1e-2 - lowest + Math.hypot(g1, g2);
  const inverted = inverse([[shift - a, -b], [-b, shift - c]]);
  return [inverted[0][0] * g1 + inverted[0][1] * g2, inverted[1][0] * g1 + inverted[1][1] * g2];
}
