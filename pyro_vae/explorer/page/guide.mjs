// The guide's encoder: x to the Gaussian q(z|x), or to a mixture.

import { inverse, triangularRoot } from "./gaussian.mjs";
import { makeNetwork } from "./network.mjs";
import { logSumExp, softplus } from "./special.mjs";

const FLOOR = 1e-6; // under a learnt sigma
const toScale = (raw, floor = FLOOR) => softplus(raw) + floor;

const HEADS = {
  DiagonalGaussian: (out) => [[1, out[0], out[1], toScale(out[2]), 0, toScale(out[3])]],
  FullCovarianceGaussian: (out) => [[1, out[0], out[1], toScale(out[2]), out[4], toScale(out[3])]],
  LowRankGaussian(out, { rank }) {
    const factor = [out.slice(4, 4 + rank), out.slice(4 + rank, 4 + 2 * rank)];
    const product = (i, j) => factor[i].reduce((sum, value, k) => sum + value * factor[j][k], 0);
    const square = [2, 3].map((i) => toScale(out[i], 1e-3) ** 2);
    const covariance = [
      [product(0, 0) + square[0], product(0, 1)],
      [product(0, 1), product(1, 1) + square[1]],
    ];
    return [[1, out[0], out[1], ...triangularRoot(covariance)]];
  },
  MixtureOfGaussians(out, { offset }) {
    const K = offset.length;
    const total = logSumExp(out.slice(0, K));
    return offset.map(([o1, o2], k) => {
      const [at, raw] = [K + 2 * k, 3 * K + 2 * k];
      return [Math.exp(out[k] - total), out[at] + o1, out[at + 1] + o2, toScale(out[raw]), 0, toScale(out[raw + 1])];
    });
  },
  // N(P^-1 h, P^-1), where each entry of x that is there adds to the precision P
  ProductOfExperts(out, { experts, base }, x) {
    const precision = [0, 1].map((i) => [0, 1].map((j) => base[i][0] * base[j][0] + base[i][1] * base[j][1]));
    precision[0][0] += toScale(out[2]);
    precision[1][1] += toScale(out[3]);
    experts.forEach((v, d) => {
      if (!Number.isNaN(x[d])) for (const i of [0, 1]) for (const j of [0, 1]) precision[i][j] += v[i] * v[j];
    });
    const covariance = inverse(precision);
    const mean = covariance.map((row) => row[0] * out[0] + row[1] * out[1]);
    return [[1, ...mean, ...triangularRoot(covariance)]];
  },
};

// A function from x to the components of q(z|x); null where the page cannot run the encoder.
export function makeEncoder(spec, read, shared) {
  if (!spec) return null;
  const network = makeNetwork(spec.network, read, shared);
  return (x) => HEADS[spec.head](Array.from(network.run(Float64Array.from(x), 1)), spec, x);
}
