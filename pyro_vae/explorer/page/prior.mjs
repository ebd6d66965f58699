// The prior's log density at n points of the plane: a mixture of Gaussians, a formula, or values on a grid.

import { makeMixture } from "./gaussian.mjs";
import { logGamma } from "./special.mjs";

const LINES = {
  laplace: (x, scale) => -Math.abs(x) / scale - Math.log(2 * scale),
  cauchy: (x, scale) => -Math.log(Math.PI * scale * (1 + (x / scale) ** 2)),
  studentt: (x, scale, df) =>
    logGamma((df + 1) / 2) - logGamma(df / 2) - 0.5 * Math.log(df * Math.PI) - Math.log(scale) -
    ((df + 1) / 2) * Math.log1p((x / scale) ** 2 / df),
};

export function makePrior(spec, read) {
  const box = { low: spec.low, high: spec.high };
  if (spec.family === "mixture") {
    const mixture = makeMixture(spec.components);
    return { ...box, logp: (z, n) => mixture.logp(z, n) };
  }
  if (spec.family === "grid") return { ...box, logp: interpolated(read(spec.values), spec.values.shape, spec) };
  const line = LINES[spec.family];
  return {
    ...box,
    logp(z, n) {
      const out = new Float64Array(n);
      for (let b = 0; b < n; b++)
        for (let i = 0; i < 2; i++) out[b] += line(z[2 * b + i] - spec.loc[i], spec.scale[i], spec.df?.[i]);
      return out;
    },
  };
}

// Catmull-Rom through the values of a grid; outside of it the value at its edge, less the distance's square.
function interpolated(values, [rows, columns], { low, high }) {
  const at = (i, j) => values[Math.min(Math.max(i, 0), rows - 1) * columns + Math.min(Math.max(j, 0), columns - 1)];
  const cubic = (a, b, c, d, t) =>
    b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  const one = (x, y) => {
    const u = ((x - low[0]) / (high[0] - low[0])) * (rows - 1);
    const v = ((y - low[1]) / (high[1] - low[1])) * (columns - 1);
    const [cu, cv] = [Math.min(Math.max(u, 0), rows - 1), Math.min(Math.max(v, 0), columns - 1)];
    const [i, j] = [Math.min(Math.floor(cu), rows - 2), Math.min(Math.floor(cv), columns - 2)];
    const row = (k) => cubic(at(k, j - 1), at(k, j), at(k, j + 1), at(k, j + 2), cv - j);
    return cubic(row(i - 1), row(i), row(i + 1), row(i + 2), cu - i) - (u - cu) ** 2 - (v - cv) ** 2;
  };
  return (z, n) => Float64Array.from({ length: n }, (_, b) => one(z[2 * b], z[2 * b + 1]));
}
