// Networks as Python describes them: each layer maps n inputs, laid one after the other, to n outputs.

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
    const convolution = readConvolution(spec, read);
    return { cost: convolution.weight.length * spec.to[1] * spec.to[2], run: (x, n) => convolve(convolution, x, n) };
  },

  ConvTranspose2d(spec, read) {
    const convolution = readConvolution(spec, read);
    const cost = convolution.weight.length * spec.from[1] * spec.from[2];
    return { cost, run: (x, n) => convolveTransposed(convolution, x, n) };
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
  return [value];
}

function linear(weight, bias, rows, columns, x, n) {
  const out = new Float64Array(n * rows);
  const even = columns - (columns % 4);
  for (let b = 0; b < n; b++) {
    const start = b * columns;
    for (let o = 0, w = 0; o < rows; o++) {
      let s0 = bias[o], s1 = 0, s2 = 0, s3 = 0;
      let i = 0;
      for (; i < even; i += 4, w += 4) {
        s0 += weight[w] * x[start + i];
        s1 += weight[w + 1] * x[start + i + 1];
        s2 += weight[w + 2] * x[start + i + 2];
        s3 += weight[w + 3] * x[start + i + 3];
      }
      for (; i < columns; i++, w++) s0 += weight[w] * x[start + i];
      out[b * rows + o] = s0 + s1 + s2 + s3;
    }
  }
  return out;
}

function readConvolution(spec, read) {
  const weight = read(spec.weight);
  const bias = spec.bias ? read(spec.bias) : new Float64Array(spec.to[0]);
  return { ...spec, weight, bias, kernel: spec.weight.shape.slice(2) };
}

function convolve({ weight, bias, kernel, stride, padding, from, to }, x, n) {
  const [inputs, height, width] = from;
  const [outputs, tall, wide] = to;
  const [kh, kw] = kernel;
  const out = new Float64Array(n * outputs * tall * wide);
  for (let b = 0; b < n; b++)
    for (let co = 0; co < outputs; co++)
      for (let i = 0; i < tall; i++)
        for (let j = 0; j < wide; j++) {
          let sum = bias[co];
          for (let ci = 0; ci < inputs; ci++)
            for (let p = 0; p < kh; p++) {
              const y = i * stride[0] - padding[0] + p;
              if (y < 0 || y >= height) continue;
              for (let q = 0; q < kw; q++) {
                const z = j * stride[1] - padding[1] + q;
                if (z < 0 || z >= width) continue;
                sum += weight[((co * inputs + ci) * kh + p) * kw + q] * x[((b * inputs + ci) * height + y) * width + z];
              }
            }
          out[((b * outputs + co) * tall + i) * wide + j] = sum;
        }
  return out;
}

function convolveTransposed({ weight, bias, kernel, stride, padding, from, to }, x, n) {
  const [inputs, height, width] = from;
  const [outputs, tall, wide] = to;
  const [kh, kw] = kernel;
  const size = tall * wide;
  const out = new Float64Array(n * outputs * size);
  for (let b = 0; b < n; b++) {
    for (let co = 0; co < outputs; co++) out.fill(bias[co], (b * outputs + co) * size, (b * outputs + co + 1) * size);
    for (let ci = 0; ci < inputs; ci++)
      for (let y = 0; y < height; y++)
        for (let z = 0; z < width; z++) {
          const value = x[((b * inputs + ci) * height + y) * width + z];
          for (let co = 0; co < outputs; co++) {
            const w = (ci * outputs + co) * kh * kw;
            const o = (b * outputs + co) * size;
            for (let p = 0; p < kh; p++) {
              const i = y * stride[0] - padding[0] + p;
              if (i < 0 || i >= tall) continue;
              for (let q = 0; q < kw; q++) {
                const j = z * stride[1] - padding[1] + q;
                if (j >= 0 && j < wide) out[o + i * wide + j] += weight[w + p * kw + q] * value;
              }
            }
          }
        }
  }
  return out;
}
