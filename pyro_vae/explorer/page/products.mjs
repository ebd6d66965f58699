// Products of matrices, and convolutions by them: where nearly all time goes.

// n rows W x + b. Four inputs and two rows of W at once: each number that is read is used several times.
export function linear(weight, bias, rows, columns, x, n) {
  const out = new Float64Array(n * rows);
  const [whole, pairs] = [n - (n % 4), rows - (rows % 2)];
  for (let b = 0; b < whole; b += 4) {
    const [p0, p1, p2, p3] = [b * columns, (b + 1) * columns, (b + 2) * columns, (b + 3) * columns];
    const [q0, q1, q2, q3] = [b * rows, (b + 1) * rows, (b + 2) * rows, (b + 3) * rows];
    for (let o = 0; o < pairs; o += 2) {
      const [r, s] = [o * columns, (o + 1) * columns];
      let u0 = bias[o], u1 = u0, u2 = u0, u3 = u0;
      let v0 = bias[o + 1], v1 = v0, v2 = v0, v3 = v0;
      for (let i = 0; i < columns; i++) {
        const w = weight[r + i], z = weight[s + i];
        const x0 = x[p0 + i], x1 = x[p1 + i], x2 = x[p2 + i], x3 = x[p3 + i];
        u0 += w * x0;
        u1 += w * x1;
        u2 += w * x2;
        u3 += w * x3;
        v0 += z * x0;
        v1 += z * x1;
        v2 += z * x2;
        v3 += z * x3;
      }
      out[q0 + o] = u0;
      out[q1 + o] = u1;
      out[q2 + o] = u2;
      out[q3 + o] = u3;
      out[q0 + o + 1] = v0;
      out[q1 + o + 1] = v1;
      out[q2 + o + 1] = v2;
      out[q3 + o + 1] = v3;
    }
  }
  for (let b = whole; b < n; b++) oneByOne(weight, bias, 0, rows, columns, x, b, rows, out);
  if (pairs < rows) for (let b = 0; b < whole; b++) oneByOne(weight, bias, pairs, rows, columns, x, b, rows, out);
  return out;
}

// Rows `from` to `to` for one input.
function oneByOne(weight, bias, from, to, columns, x, b, width, out) {
  const even = columns - (columns % 4);
  const start = b * columns;
  for (let o = from; o < to; o++) {
    const w = o * columns;
    let s0 = bias[o], s1 = 0, s2 = 0, s3 = 0;
    let i = 0;
    for (; i < even; i += 4) {
      s0 += weight[w + i] * x[start + i];
      s1 += weight[w + i + 1] * x[start + i + 1];
      s2 += weight[w + i + 2] * x[start + i + 2];
      s3 += weight[w + i + 3] * x[start + i + 3];
    }
    for (; i < columns; i++) s0 += weight[w + i] * x[start + i];
    out[b * width + o] = s0 + s1 + s2 + s3;
  }
}

export function convolve({ weight, bias, kernel, stride, padding, from, to }, x, n) {
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

// Every place of the small image paints a patch of the large one: one product makes all patches, then they are added
// up. The weight comes turned, (outputs * kernel, inputs).
export function convolveTransposed({ weight, bias, kernel, stride, padding, from, to }, x, n) {
  const [inputs, height, width] = from;
  const [outputs, tall, wide] = to;
  const [kh, kw] = kernel;
  const [places, patch, size] = [height * width, outputs * kh * kw, tall * wide];
  const seen = new Float64Array(n * places * inputs);
  for (let b = 0; b < n; b++)
    for (let ci = 0; ci < inputs; ci++)
      for (let k = 0; k < places; k++) seen[(b * places + k) * inputs + ci] = x[(b * inputs + ci) * places + k];
  const patches = linear(weight, new Float64Array(patch), patch, inputs, seen, n * places);
  const out = new Float64Array(n * outputs * size);
  for (let b = 0; b < n; b++)
    for (let co = 0; co < outputs; co++) {
      const o = (b * outputs + co) * size;
      out.fill(bias[co], o, o + size);
      for (let y = 0; y < height; y++)
        for (let z = 0; z < width; z++) {
          const w = ((b * places + y * width + z) * outputs + co) * kh * kw;
          for (let p = 0; p < kh; p++) {
            const i = y * stride[0] - padding[0] + p;
            if (i < 0 || i >= tall) continue;
            for (let q = 0; q < kw; q++) {
              const j = z * stride[1] - padding[1] + q;
              if (j >= 0 && j < wide) out[o + i * wide + j] += patches[w + p * kw + q];
            }
          }
        }
    }
  return out;
}
