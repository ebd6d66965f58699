// The prior's log density at n points of the plane: a mixture of Gaussians, a formula, or values on a grid.

import { makeMixture } from "./gaussian.mjs";
import { interpolator } from "./interpolation.mjs";
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
  if (spec.family === "grid") return { ...box, logp: onGrid(spec, read) };
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

// Between the values of a grid; outside of it the value at its edge, less the distance's square.
function onGrid({ low, high, values }, read) {
  const n = values.shape;
  const step = [0, 1].map((i) => (high[i] - low[i]) / (n[i] - 1));
  const at = interpolator({ low, step, n, values: read(values) });
  const one = (z) => {
    const inside = z.map((value, i) => Math.min(Math.max(value, low[i]), high[i]));
    return at(...inside) - (z[0] - inside[0]) ** 2 - (z[1] - inside[1]) ** 2;
  };
  return (z, count) => Float64Array.from({ length: count }, (_, b) => one([z[2 * b], z[2 * b + 1]]));
}
