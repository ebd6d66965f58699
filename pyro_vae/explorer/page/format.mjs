// Numbers as people read them, with a true minus sign.

export function fixed(value, digits = 3) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

// Four digits, whatever the size; of a whole number its own.
export function short(value) {
  if (!Number.isFinite(value)) return fixed(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return fixed(value, 0);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace("-", "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return fixed(value, digits);
}

export const percent = (share) => `${Math.round(100 * share)} %`;

export const pair = ([a, b], digits = 2) => `(${fixed(a, digits)}, ${fixed(b, digits)})`;
