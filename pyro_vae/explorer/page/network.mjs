// Networks as Python describes them: each layer maps n inputs, laid one after the other, to n outputs.

import { convolve, convolveTransposed, linear } from "./products.mjs";
import { clamp, erf, sigmoid, softplus } from "./special.mjs";

const FARTHEST = 8; // standard deviations: where the features of a column end

const ACTIVATIONS = {
  SiLU: () => (x) => x * sigmoid(x),
  ReLU: () => (x) => (x > 0 ? x : 0),
  Tanh: () => Math.tanh,
  Sigmoid: () => sigmoid,
  Mish: () => (x) => x * Math.tanh(softplus(x)),
  SELU: () => (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  Softsign: () => (x) => x / (1 + Math.abs(x)),
  GELU: ({ tanh }) =>
    tanh
      ? (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
      : (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  ELU: ({ alpha }) => (x) => (x > 0 ? x : alpha * Math.expm1(x)),
  LeakyReLU: ({ slope }) => (x) => (x > 0 ? x : slope * x),
  Softplus: ({ beta }) => (x) => softplus(beta * x) / beta,
};

// A network {layer, inputs, outputs}; run(x, n) gives n rows of outputs. `cost` counts multiplications a row.
export function makeNetwork(spec, read, shared) {
  const layer = makeLayer(spec.layer, read, shared);
  return {
    inputs: spec.inputs,
    outputs: spec.outputs,
    cost: layer.cost,
    run: (x, n, known = new Map()) => layer.run(x, n, known),
  };
}

// `known` holds what trunks that several heads share gave for these inputs.
function makeLayer(spec, read, shared) {
  if (spec.op in ACTIVATIONS) return pointwise(ACTIVATIONS[spec.op](spec));
  return LAYERS[spec.op](spec, read, shared);
}

function pointwise(f) {
  const run = (x) => {
    const out = new Float64Array(x.length);
    for (let i = 0; i < x.length; i++) out[i] = f(x[i]);
    return out;
  };
  return { run, cost: 0 };
}

const LAYERS = {
  Identity: () => ({ run: (x) => x, cost: 0 }),

  Sequential(spec, read, shared) {
    const layers = spec.layers.map((layer) => makeLayer(layer, read, shared));
    return {
      cost: layers.reduce((sum, layer) => sum + layer.cost, 0),
      run: (x, n, known) => layers.reduce((value, layer) => layer.run(value, n, known), x),
    };
  },

  Linear(spec, read) {
    const [rows, columns] = spec.weight.shape;
    const weight = read(spec.weight);
    const bias = spec.bias ? read(spec.bias) : new Float64Array(rows);
    return { cost: rows * columns, run: (x, n) => linear(weight, bias, rows, columns, x, n) };
  },

  Conv2d(spec, read) {
    const weight = read(spec.weight);
    const convolution = { ...spec, weight, bias: biasOf(spec, read), kernel: spec.weight.shape.slice(2) };
    return { cost: weight.length * spec.to[1] * spec.to[2], run: (x, n) => convolve(convolution, x, n) };
  },

  ConvTranspose2d(spec, read) {
    const weight = read(spec.weight);
    const convolution = { ...spec, weight: turned(weight, spec.from[0]), bias: biasOf(spec, read), kernel: spec.weight.shape.slice(2) };
    return { cost: weight.length * spec.from[1] * spec.from[2], run: (x, n) => convolveTransposed(convolution, x, n) };
  },

  // b + A z + B silu(trunk(z))
  SkipHead(spec, read, shared) {
    const straight = makeLayer(spec.linear, read, shared);
    const bent = makeLayer(spec.bent, read, shared);
    const silu = pointwise((x) => x * sigmoid(x));
    const run = (x, n, known) => {
      if (!known.has(spec.trunk)) known.set(spec.trunk, silu.run(shared(spec.trunk).run(x, n, known), n));
      const out = straight.run(x, n, known);
      const more = bent.run(known.get(spec.trunk), n, known);
      for (let i = 0; i < out.length; i++) out[i] += more[i];
      return out;
    };
    return { run, cost: straight.cost + bent.cost + shared(spec.trunk).cost };
  },

  // zeros where an entry is missing, and a mask beside
  MaskedInput(spec, read, shared) {
    const network = makeLayer(spec.network, read, shared);
    const run = (x, n, known) => {
      const width = x.length / n;
      const seen = new Float64Array(2 * x.length);
      for (let b = 0; b < n; b++)
        for (let i = 0; i < width; i++) {
          const value = x[b * width + i];
          seen[2 * b * width + i] = Number.isNaN(value) ? 0 : value;
          seen[2 * b * width + width + i] = Number.isNaN(value) ? 0 : 1;
        }
      return network.run(seen, n, known);
    };
    return { run, cost: network.cost };
  },

  ColumnFeatures(spec, read, shared) {
    const network = makeLayer(spec.network, read, shared);
    const [loc, scale] = [read(spec.loc), read(spec.scale)];
    const width = spec.scales.length;
    const run = (x, n, known) => {
      const rows = [];
      for (let b = 0; b < n; b++) {
        const raw = spec.scales.flatMap((kind, i) => columnFeatures(kind, x[b * width + i], spec.categories[i]));
        const features = raw.map((value, i) => {
          const feature = clamp((value - loc[i]) / scale[i], -FARTHEST, FARTHEST);
          return Number.isNaN(feature) ? 0 : feature;
        });
        rows.push(...features);
        if (spec.missing) for (let i = 0; i < width; i++) rows.push(Number.isNaN(x[b * width + i]) ? 0 : 1);
      }
      return network.run(Float64Array.from(rows), n, known);
    };
    return { run, cost: network.cost };
  },
};

const biasOf = (spec, read) => (spec.bias ? read(spec.bias) : new Float64Array(spec.to[0]));

// A matrix of so many rows, turned.
function turned(weight, rows) {
  const columns = weight.length / rows;
  return Float64Array.from(weight, (_, k) => weight[(k % rows) * columns + Math.floor(k / rows)]);
}

// What a column becomes before it is standardised: NaN where it is missing, or has no logarithm.
function columnFeatures(kind, value, categories) {
  if (kind === "category") {
    return Array.from({ length: categories - 1 }, (_, k) => (Number.isNaN(value) ? NaN : Number(value === k + 1)));
  }
  if (kind === "hurdle") {
    return [Number.isNaN(value) ? NaN : Number(value > 0), value > 0 ? Math.log(value) : NaN];
  }
  if (kind === "log") return [Math.log(Math.max(value, 1e-30))];
  if (kind === "log1p") return [Math.log1p(Math.max(value, 0))];
  if (kind === "asinh") return [Math.asinh(value)];
  return [value];
}
