// Gaussians over the plane and mixtures of them: [weight, m1, m2, t11, t21, t22] each, the covariance T T'.

import { LOG_2PI } from "./special.mjs";

export function makeMixture(components) {
  const parts = components.map(([weight, m1, m2, t11, t21, t22]) => ({
    weight, m1, m2, t11, t21, t22,
    constant: Math.log(weight) - LOG_2PI - Math.log(t11) - Math.log(t22),
  }));
  const one = (x, y) => {
    let [top, sum] = [-Infinity, 0];
    for (const { m1, m2, t11, t21, t22, constant } of parts) {
      const e1 = (x - m1) / t11;
      const e2 = (y - m2 - t21 * e1) / t22;
      const value = constant - 0.5 * (e1 * e1 + e2 * e2);
      if (value > top) [top, sum] = [value, sum * Math.exp(top - value) + 1];
      else if (value > -Infinity) sum += Math.exp(value - top);
    }
    return top + Math.log(sum);
  };
  return {
    components,
    logp: (z, n) => Float64Array.from({ length: n }, (_, b) => one(z[2 * b], z[2 * b + 1])),
    ...mixtureMoments(components),
  };
}

function mixtureMoments(components) {
  const mean = [0, 0];
  const square = [[0, 0], [0, 0]];
  for (const [weight, m1, m2, t11, t21, t22] of components) {
    mean[0] += weight * m1;
    mean[1] += weight * m2;
    square[0][0] += weight * (t11 * t11 + m1 * m1);
    square[0][1] += weight * (t11 * t21 + m1 * m2);
    square[1][1] += weight * (t21 * t21 + t22 * t22 + m2 * m2);
  }
  const covariance = [
    [square[0][0] - mean[0] ** 2, square[0][1] - mean[0] * mean[1]],
    [square[0][1] - mean[0] * mean[1], square[1][1] - mean[1] ** 2],
  ];
  return { mean, covariance };
}

// [t11, t21, t22] of a covariance, or null if it is not positive definite.
export function triangularRoot([[a, b], [, c]]) {
  if (!(a > 0) || !(a * c - b * b > 0)) return null;
  const t11 = Math.sqrt(a);
  const t21 = b / t11;
  return [t11, t21, Math.sqrt(c - t21 * t21)];
}

export function inverse([[a, b], [c, d]]) {
  const determinant = a * d - b * c;
  return [[d / determinant, -b / determinant], [-c / determinant, a / determinant]];
}
