// The page's numerical code in Node: reads a page and what to compute, writes numbers.
//
// node numbers.mjs MODULES PAGE, with {task: arguments} as JSON on standard input.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, page] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${modules}/${name}.mjs`));
const [{ makeModel }, { decodeBase64 }, grids, bounds, ascents, kernels, diagnostics, { makeRandom }, { finish }] = await Promise.all(
  ["model", "weights", "grid", "bound", "ascent", "kernels", "diagnostics", "random", "work"].map(load),
);

const html = page === "-" ? null : readFileSync(page, "utf8");
const block = (id) => html.match(new RegExp(`<script[^>]*id="${id}"[^>]*>([\\s\\S]*?)</script>`))[1].trim();
const content = html && JSON.parse(block("content"));
const model = html && makeModel(content, decodeBase64(block("data")));
let survey = null;
const known = new Map();

function posterior(row) {
  survey ??= finish(grids.surveyOf(model));
  if (!known.has(row)) known.set(row, finish(grids.exactPosterior(model, survey, model.data[row])));
  return known.get(row);
}

// A correlated Gaussian with known moments, as a chain sees it.
function gaussianTarget({ mean, precision }) {
  const logJoint = (z, n) =>
    Float64Array.from({ length: n }, (_, b) => {
      const [x, y] = [z[2 * b] - mean[0], z[2 * b + 1] - mean[1]];
      return -0.5 * (precision[0][0] * x * x + 2 * precision[0][1] * x * y + precision[1][1] * y * y);
    });
  const grid = grids.lattice([mean[0] - 8, mean[1] - 8], [mean[0] + 8, mean[1] + 8], 81, 81);
  return kernels.makeTarget({ logJoint, guess: logJoint, grid });
}

function walk(target, { kernel, step, chains, seed, num, starts }) {
  const run = kernels.makeChains(target, { kernel, step, chains, seed }, starts, makeRandom);
  const begin = performance.now();
  for (let t = 0; t < num; t++) run.advance();
  const seconds = (performance.now() - begin) / 1000;
  const after = run.states.map(({ draws }) => draws.slice(Math.floor(num / 5)));
  const of = (f) => after.map((draws) => draws.map(f));
  const means = { z1: (z) => z[0], z2: (z) => z[1], z1z1: (z) => z[0] ** 2, z2z2: (z) => z[1] ** 2, z1z2: (z) => z[0] * z[1] };
  const found = Object.entries(means).map(([name, f]) => {
    const values = of(f);
    const all = values.flat();
    const mean = all.reduce((sum, value) => sum + value, 0) / all.length;
    const size = diagnostics.effectiveSize(values);
    const error = Math.sqrt(diagnostics.variance(all) / size);
    return [name, { mean, error, size, rhat: diagnostics.splitRhat(values) }];
  });
  const accepts = run.states.flatMap((chain) => chain.accepts);
  const accept = accepts.reduce((sum, value) => sum + value, 0) / accepts.length;
  return { moments: Object.fromEntries(found), accept, first: run.states[0].draws.slice(0, 3), seconds };
}

const TASKS = {
  decode: ({ z }) => z.map((one) => model.decode(one)),
  logJoint: ({ row, z }) => Array.from(model.logJoint(model.data[row], Float64Array.from(z.flat()), z.length)),
  logPrior: ({ z }) => Array.from(model.prior.logp(Float64Array.from(z.flat()), z.length)),
  encode: ({ rows }) => rows.map((row) => model.encode && model.encode(model.data[row])),
  exact: ({ rows }) =>
    rows.map((row) => {
      const begin = performance.now();
      const { logEvidence, mean, covariance, change, modes, grid, logJoint } = posterior(row);
      const q = content.guide.q[row];
      return {
        logEvidence, mean, covariance, change, modes, points: grid.values.length,
        bound: bounds.boundOf(q, logJoint, logEvidence),
        milliseconds: performance.now() - begin,
      };
    }),
  bound: ({ row, m, s }) => {
    const { logJoint, logEvidence } = posterior(row);
    return bounds.boundOf(ascents.meanField(m, s), logJoint, logEvidence);
  },
  rule: ({ n }) => bounds.gaussHermite(n),
  best: ({ row }) => {
    const { logJoint, mean, covariance, logEvidence } = posterior(row);
    const start = { m: mean, s: [0, 1].map((i) => Math.sqrt(covariance[i][i])) };
    const best = finish(ascents.bestMeanField([start], logJoint));
    return { ...best, bound: bounds.boundOf(ascents.meanField(best.m, best.s), logJoint, logEvidence) };
  },
  chains: ({ row, ...settings }) => {
    return walk(kernels.makeTarget(posterior(row)), settings);
  },
  gaussian: ({ mean, precision, ...settings }) => walk(gaussianTarget({ mean, precision }), settings),
  diagnostics: ({ chains }) => ({
    size: diagnostics.effectiveSize(chains),
    rhat: diagnostics.splitRhat(chains),
    lags: diagnostics.autocorrelation(chains, 5),
  }),
  survey: () => {
    const begin = performance.now();
    survey = finish(grids.surveyOf(model));
    return (performance.now() - begin) / 1000;
  },
  speed: ({ count }) => {
    for (let i = 0; i < 20; i++) model.decode([i / 20, 0]); // until the engine has compiled it
    const begin = performance.now();
    for (let i = 0; i < count; i++) model.decode([i / count, -i / count]);
    return (performance.now() - begin) / count;
  },
};

const asked = JSON.parse(readFileSync(0, "utf8"));
const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
process.stdout.write(JSON.stringify(asked.map(([task, given]) => TASKS[task](given)), plain));
