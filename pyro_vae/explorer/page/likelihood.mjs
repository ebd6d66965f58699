// Log densities of the columns of x given what the decoder's network says, each with every constant.
//
// A family has logp(out, at, d, D, x, part): log p(x_d), where the numbers of this z begin at out[at], a parameter's D
// columns side by side; mean and sd of x_d; and probabilities, if x_d is one of a few values.

import { makeNetwork } from "./network.mjs";
import { clamp, LOG_2PI, logGamma, logSigmoid, logSumExp, sigmoid, softplus } from "./special.mjs";

const boundedExp = (x) => Math.exp(clamp(x, -30, 30));
const scaleOf = (out, at, d, D, part) =>
  part.scale === null ? softplus(out[at + D + d]) + part.floor : Array.isArray(part.scale) ? part.scale[d] : part.scale;
const dfOf = (part, d) => (Array.isArray(part.df) ? part.df[d] : part.df);
const gateOf = (out, at, d, D, part) => out[at + (part.scale === null ? 2 : 1) * D + d];
const shapeOf = (raw) => Math.min(softplus(raw) + 0.01, 1e4);

const normal = (x, m, s) => -0.5 * ((x - m) / s) ** 2 - Math.log(s) - 0.5 * LOG_2PI;
const logNormal = (x, m, s) => normal(Math.log(x), m, s) - Math.log(x);
const logNormalMean = (m, s) => Math.exp(m + (s * s) / 2);
const logNormalSd = (m, s) => logNormalMean(m, s) * Math.sqrt(Math.expm1(s * s));
const gamma = (x, logMean, k) => {
  const rate = k * boundedExp(-logMean);
  return k * Math.log(rate) + (k - 1) * Math.log(x) - rate * x - logGamma(k);
};
const poisson = (x, rate) => x * Math.log(rate) - rate - logGamma(x + 1);

// With probability g at 0: log p(x), and the moments of (1 - g) times what is above.
const hurdle = (x, gate, above) => (x === 0 ? logSigmoid(gate) : logSigmoid(-gate) + above(x));
const inflated = (x, gate, base) =>
  x === 0 ? logSumExp([logSigmoid(gate), logSigmoid(-gate) + base]) : logSigmoid(-gate) + base;
const mixedSd = (share, mean, sd) => Math.sqrt(share * (sd * sd + (1 - share) * mean * mean));

// log(lambda's normaliser) of the continuous Bernoulli, eta / tanh(eta / 2) / 2 times 2, near 0 by its series.
function logContinuous(eta) {
  const y = Math.abs(eta / 2);
  const ratio = y < 0.02 ? (y * y) / 3 - (7 * y ** 4) / 90 : Math.log(y / Math.tanh(y));
  return Math.LN2 + ratio;
}

function logNegativeBinomial(x, out, at, d, D) {
  const { r, logits } = negativeBinomial(out, at, d, D);
  return r * logSigmoid(-logits) + x * logSigmoid(logits) + logGamma(r + x) - logGamma(1 + x) - logGamma(r);
}

function negativeBinomial(out, at, d, D) {
  const r = shapeOf(out[at + D + d]);
  const logits = clamp(out[at + d] - Math.log(r), -30, 15);
  const mean = r * Math.exp(logits);
  return { r, logits, mean, sd: Math.sqrt(mean * (1 + Math.exp(logits))) };
}

function betaOf(out, at, d, D, part) {
  const mean = 1e-4 + (1 - 2e-4) * sigmoid(out[at + d]);
  const k = softplus(out[at + D + d]) + part.floor;
  return { a: mean * k, b: (1 - mean) * k, mean, sd: Math.sqrt((mean * (1 - mean)) / (k + 1)) };
}

function softmax(logits) {
  const total = logSumExp(logits);
  return logits.map((value) => Math.exp(value - total));
}

function orderedLogits(out, at, d, part) {
  const [cut, gaps] = [part.cutpoints[d], part.gaps[d]];
  return Array.from({ length: cut.length + 1 }, (_, k) => {
    const below = k < cut.length ? logSigmoid(cut[k] - out[at + d]) : 0;
    const above = k > 0 ? logSigmoid(out[at + d] - cut[k - 1]) : 0;
    const between = k > 0 && k < cut.length ? Math.log(-Math.expm1(-gaps[k - 1])) : 0;
    return below + above + between;
  });
}

const categoryLogits = (out, at, d, part) =>
  Array.from(out.subarray(at + d * part.categories, at + (d + 1) * part.categories));

function discretised(out, at, d, D, part) {
  const loc = (part.levels - 1) * sigmoid(out[at + d]);
  const scale = (part.levels / 8) * softplus(out[at + D + d]) + part.floor;
  return { loc, scale };
}

function logDiscretised(x, { loc, scale }, levels) {
  const [a, b] = [(x - 0.5 - loc) / scale, (x + 0.5 - loc) / scale];
  if (x <= 0) return logSigmoid(b);
  if (x >= levels - 1) return logSigmoid(-a);
  return logSigmoid(b) + logSigmoid(-a) + Math.log(-Math.expm1(-1 / scale));
}

const momentsOf = (probabilities) => {
  let [mean, square] = [0, 0];
  probabilities.forEach((p, k) => {
    mean += p * k;
    square += p * k * k;
  });
  return { mean, sd: Math.sqrt(Math.max(square - mean * mean, 0)) };
};

const LOCATED = { mean: (out, at, d) => out[at + d], sd: scaleOf };

export const FAMILIES = {
  Bernoulli: {
    logp: (out, at, d, D, x) => x * out[at + d] - softplus(out[at + d]),
    probabilities: (out, at, d) => [1 - sigmoid(out[at + d]), sigmoid(out[at + d])],
  },
  ContinuousBernoulli: {
    logp: (out, at, d, D, x) => x * out[at + d] - softplus(out[at + d]) + logContinuous(out[at + d]),
    mean: (out, at, d) => continuousMoments(out[at + d]).mean,
    sd: (out, at, d) => continuousMoments(out[at + d]).sd,
  },
  Beta: {
    logp(out, at, d, D, x, part) {
      const { a, b } = betaOf(out, at, d, D, part);
      return (a - 1) * Math.log(x) + (b - 1) * Math.log1p(-x) - logGamma(a) - logGamma(b) + logGamma(a + b);
    },
    mean: (out, at, d, D, part) => betaOf(out, at, d, D, part).mean,
    sd: (out, at, d, D, part) => betaOf(out, at, d, D, part).sd,
  },
  Gaussian: { ...LOCATED, logp: (out, at, d, D, x, part) => normal(x, out[at + d], scaleOf(out, at, d, D, part)) },
  Laplace: {
    ...LOCATED,
    logp(out, at, d, D, x, part) {
      const b = scaleOf(out, at, d, D, part);
      return -Math.abs(x - out[at + d]) / b - Math.log(2 * b);
    },
    sd: (out, at, d, D, part) => Math.SQRT2 * scaleOf(out, at, d, D, part),
  },
  StudentT: {
    ...LOCATED,
    logp(out, at, d, D, x, part) {
      const s = scaleOf(out, at, d, D, part);
      const n = dfOf(part, d);
      const y = (x - out[at + d]) / s;
      const constant = logGamma((n + 1) / 2) - logGamma(n / 2) - 0.5 * Math.log(n * Math.PI) - Math.log(s);
      return constant - ((n + 1) / 2) * Math.log1p((y * y) / n);
    },
    sd(out, at, d, D, part) {
      const n = dfOf(part, d);
      return n > 2 ? scaleOf(out, at, d, D, part) * Math.sqrt(n / (n - 2)) : Infinity;
    },
  },
  LogNormal: {
    logp: (out, at, d, D, x, part) => logNormal(x, out[at + d], scaleOf(out, at, d, D, part)),
    mean: (out, at, d, D, part) => logNormalMean(out[at + d], scaleOf(out, at, d, D, part)),
    sd: (out, at, d, D, part) => logNormalSd(out[at + d], scaleOf(out, at, d, D, part)),
  },
  HurdleLogNormal: {
    logp: (out, at, d, D, x, part) =>
      hurdle(x, gateOf(out, at, d, D, part), (v) => logNormal(v, out[at + d], scaleOf(out, at, d, D, part))),
    mean: (out, at, d, D, part) =>
      sigmoid(-gateOf(out, at, d, D, part)) * logNormalMean(out[at + d], scaleOf(out, at, d, D, part)),
    sd(out, at, d, D, part) {
      const s = scaleOf(out, at, d, D, part);
      const share = sigmoid(-gateOf(out, at, d, D, part));
      return mixedSd(share, logNormalMean(out[at + d], s), logNormalSd(out[at + d], s));
    },
  },
  Exponential: {
    logp(out, at, d, D, x) {
      const rate = boundedExp(-out[at + d]);
      return Math.log(rate) - rate * x;
    },
    mean: (out, at, d) => 1 / boundedExp(-out[at + d]),
    sd: (out, at, d) => 1 / boundedExp(-out[at + d]),
  },
  Gamma: {
    logp: (out, at, d, D, x) => gamma(x, out[at + d], shapeOf(out[at + D + d])),
    mean: (out, at, d) => 1 / boundedExp(-out[at + d]),
    sd: (out, at, d, D) => 1 / boundedExp(-out[at + d]) / Math.sqrt(shapeOf(out[at + D + d])),
  },
  HurdleGamma: {
    logp: (out, at, d, D, x) =>
      hurdle(x, out[at + 2 * D + d], (v) => gamma(v, out[at + d], shapeOf(out[at + D + d]))),
    mean: (out, at, d, D) => sigmoid(-out[at + 2 * D + d]) / boundedExp(-out[at + d]),
    sd(out, at, d, D) {
      const mean = 1 / boundedExp(-out[at + d]);
      return mixedSd(sigmoid(-out[at + 2 * D + d]), mean, mean / Math.sqrt(shapeOf(out[at + D + d])));
    },
  },
  Poisson: {
    logp: (out, at, d, D, x) => poisson(x, boundedExp(out[at + d])),
    mean: (out, at, d) => boundedExp(out[at + d]),
    sd: (out, at, d) => Math.sqrt(boundedExp(out[at + d])),
  },
  ZeroInflatedPoisson: {
    logp: (out, at, d, D, x) => inflated(x, out[at + D + d], poisson(x, boundedExp(out[at + d]))),
    mean: (out, at, d, D) => sigmoid(-out[at + D + d]) * boundedExp(out[at + d]),
    sd(out, at, d, D) {
      const rate = boundedExp(out[at + d]);
      return mixedSd(sigmoid(-out[at + D + d]), rate, Math.sqrt(rate));
    },
  },
  NegativeBinomial: {
    logp: (out, at, d, D, x) => logNegativeBinomial(x, out, at, d, D),
    mean: (out, at, d, D) => negativeBinomial(out, at, d, D).mean,
    sd: (out, at, d, D) => negativeBinomial(out, at, d, D).sd,
  },
  ZeroInflatedNegativeBinomial: {
    logp: (out, at, d, D, x) => inflated(x, out[at + 2 * D + d], logNegativeBinomial(x, out, at, d, D)),
    mean: (out, at, d, D) => sigmoid(-out[at + 2 * D + d]) * negativeBinomial(out, at, d, D).mean,
    sd(out, at, d, D) {
      const { mean, sd } = negativeBinomial(out, at, d, D);
      return mixedSd(sigmoid(-out[at + 2 * D + d]), mean, sd);
    },
  },
  Categorical: {
    logp(out, at, d, D, x, part) {
      const logits = categoryLogits(out, at, d, part);
      return logits[x] - logSumExp(logits);
    },
    probabilities: (out, at, d, D, part) => softmax(categoryLogits(out, at, d, part)),
  },
  OrderedLogistic: {
    logp(out, at, d, D, x, part) {
      const logits = orderedLogits(out, at, d, part);
      return logits[x] - logSumExp(logits);
    },
    probabilities: (out, at, d, D, part) => softmax(orderedLogits(out, at, d, part)),
  },
  DiscretisedLogistic: {
    logp: (out, at, d, D, x, part) => logDiscretised(x, discretised(out, at, d, D, part), part.levels),
    mean: (out, at, d, D, part) => momentsOf(levelsOf(out, at, d, D, part)).mean,
    sd: (out, at, d, D, part) => momentsOf(levelsOf(out, at, d, D, part)).sd,
  },
};

const levelsOf = (out, at, d, D, part) => {
  const law = discretised(out, at, d, D, part);
  return Array.from({ length: part.levels }, (_, k) => Math.exp(logDiscretised(k, law, part.levels)));
};

// Mean and standard deviation of the density C e^{eta x} on [0, 1].
function continuousMoments(eta) {
  if (Math.abs(eta) < 0.02) return { mean: 0.5 + eta / 12 - eta ** 3 / 720, sd: Math.sqrt(1 / 12 - (eta * eta) / 240) };
  const mean = 1 / (1 - Math.exp(-eta)) - 1 / eta;
  const variance = 1 / (eta * eta) - 1 / (4 * Math.sinh(eta / 2) ** 2);
  return { mean, sd: Math.sqrt(variance) };
}

// The likelihood: parts side by side. Outputs of the networks are kept apart from x, for a grid serves many x.
export function makeLikelihood(specs, read, shared) {
  let begin = 0;
  const parts = specs.map((spec) => {
    const part = { ...spec, network: makeNetwork(spec.network, read, shared), family: FAMILIES[spec.family], begin };
    begin += spec.width;
    return part;
  });
  return {
    width: begin,
    cost: parts.reduce((sum, part) => sum + part.network.cost, 0) + 4 * begin,
    outputs(z, n) {
      const known = new Map();
      return parts.map((part) => part.network.run(z, n, known));
    },
    // log p(x|z) for n points; NaN in x is missing, and left out
    logp(outputs, n, x) {
      const sum = new Float64Array(n);
      parts.forEach((part, i) => {
        const [D, P, out, logp] = [part.width, part.network.outputs, outputs[i], part.family.logp];
        for (let d = 0; d < D; d++) {
          const value = x[part.begin + d];
          if (Number.isNaN(value)) continue;
          for (let b = 0; b < n; b++) sum[b] += logp(out, b * P, d, D, value, part);
        }
      });
      return sum;
    },
    // what p(x|z) says of each column at one z: {mean, sd, probabilities}
    columns(outputs) {
      return parts.flatMap((part, i) => {
        const { family, width } = part;
        return Array.from({ length: width }, (_, d) => {
          const values = [outputs[i], 0, d, width, part];
          if (!family.probabilities) return { mean: family.mean(...values), sd: family.sd(...values) };
          const probabilities = family.probabilities(...values);
          return { ...momentsOf(probabilities), probabilities };
        });
      });
    },
  };
}
