// The model p(z) p(x|z) and its guide, from what Python wrote.

import { makeEncoder } from "./guide.mjs";
import { makeLikelihood } from "./likelihood.mjs";
import { makeNetwork } from "./network.mjs";
import { makePrior } from "./prior.mjs";
import { makeReader } from "./weights.mjs";

export function makeModel(content, bytes) {
  const read = makeReader(bytes);
  const trunks = new Map();
  const shared = (number) => {
    if (!trunks.has(number)) {
      trunks.set(number, makeNetwork({ layer: content.shared[number], inputs: 0, outputs: 0 }, read, shared));
    }
    return trunks.get(number);
  };
  const prior = makePrior(content.prior, read);
  const likelihood = makeLikelihood(content.likelihood, read, shared);
  const [rows, width] = content.x.shape;
  const table = read(content.x);
  return {
    prior,
    likelihood,
    cost: likelihood.cost,
    data: Array.from({ length: rows }, (_, n) => table.slice(n * width, (n + 1) * width)),
    encode: makeEncoder(content.guide.encoder, read, shared),
    // log p(x, z) of one x at n points z, laid one after the other
    logJoint(x, z, n) {
      const out = likelihood.logp(likelihood.outputs(z, n), n, x);
      const above = prior.logp(z, n);
      for (let b = 0; b < n; b++) out[b] += above[b];
      return out;
    },
    // what p(x|z) says of each column
    decode: (z) => likelihood.columns(likelihood.outputs(Float64Array.from(z), 1)),
  };
}
