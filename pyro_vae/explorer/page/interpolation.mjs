// A smooth function through the values of a lattice, and what stands in for a costly log density.

const cubic = (a, b, c, d, t) => b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));

// Catmull and Rom's spline along both axes; beyond the edge its value is continued by the nearest cell's.
export function interpolator({ low, step, n: [rows, columns], values }) {
  const at = (i, j) => values[Math.min(Math.max(i, 0), rows - 1) * columns + Math.min(Math.max(j, 0), columns - 1)];
  return (x, y) => {
    const [u, v] = [(x - low[0]) / step[0], (y - low[1]) / step[1]];
    const i = Math.min(Math.max(Math.floor(u), 0), rows - 2);
    const j = Math.min(Math.max(Math.floor(v), 0), columns - 2);
    const row = (k) => cubic(at(k, j - 1), at(k, j), at(k, j + 1), at(k, j + 2), v - j);
    return cubic(row(i - 1), row(i), row(i + 1), row(i + 2), u - i);
  };
}

// log p(x, z) as the posterior's grid has it, and outside of that as the survey of the plane has it; beyond the survey
// it falls off. Good enough to move by, where the decoder is too slow to ask a thousand times a frame; what is shown
// at rest, and what a chain is accepted by, is the decoder's own.
export function standIn(grid, survey) {
  const [inner, outer] = [interpolator(grid), interpolator(survey)];
  const holds = ({ low, step, n }, x, y) =>
    x >= low[0] && y >= low[1] && x <= low[0] + (n[0] - 1) * step[0] && y <= low[1] + (n[1] - 1) * step[1];
  const end = [0, 1].map((i) => survey.low[i] + (survey.n[i] - 1) * survey.step[i]);
  const one = (x, y) => {
    if (holds(grid, x, y)) return inner(x, y);
    if (holds(survey, x, y)) return outer(x, y);
    const [a, b] = [Math.min(Math.max(x, survey.low[0]), end[0]), Math.min(Math.max(y, survey.low[1]), end[1])];
    return outer(a, b) - 5 * ((x - a) ** 2 + (y - b) ** 2);
  };
  return (z, n) => Float64Array.from({ length: n }, (_, b) => one(z[2 * b], z[2 * b + 1]));
}

// The same function on a lattice so fine that a picture of it shows no corners.
export function smoothed(grid, least = 150) {
  const { low, step, n } = grid;
  const times = [0, 1].map((i) => Math.max(1, Math.ceil(least / n[i])));
  if (times[0] === 1 && times[1] === 1) return grid;
  const size = [0, 1].map((i) => (n[i] - 1) * times[i] + 1);
  const fine = [0, 1].map((i) => step[i] / times[i]);
  const at = interpolator(grid);
  const values = new Float64Array(size[0] * size[1]);
  for (let i = 0, k = 0; i < size[0]; i++)
    for (let j = 0; j < size[1]; j++) values[k++] = at(low[0] + i * fine[0], low[1] + j * fine[1]);
  return { low, step: fine, n: size, values };
}
