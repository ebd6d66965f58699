// What is set in the page, as the part of its address after #, so that a link shows the same.

import { clamp } from "./special.mjs";

export const DEFAULTS = {
  z: [0, 0], x: 0, drawn: null, bayes: 2, q: "guide", m: null, s: null,
  kernel: "mh", step: null, chains: 4, seed: 1, draws: 0, theme: null,
};
const MOST_DRAWS = 5000; // that a link may ask for
const LEVELS = 15; // of a drawn pixel
const KERNEL_NAMES = ["mh", "gibbs", "hmc"];
const Q_NAMES = ["guide", "laplace", "hand"];

const sixDigits = (value) => Number(value.toPrecision(6));

// Pixels between 0 and 1 as one hexadecimal digit each.
export const drawingToText = (pixels) => Array.from(pixels, (v) => Math.round(LEVELS * v).toString(16)).join("");
export const drawingFromText = (text) => Float64Array.from(text, (digit) => parseInt(digit, 16) / LEVELS);

export function toHash(state) {
  const words = new URLSearchParams();
  const pairOf = (values) => values.map(sixDigits).join(",");
  words.set("z", pairOf(state.z));
  if (state.drawn) words.set("drawn", drawingToText(state.drawn));
  else words.set("x", String(state.x));
  if (state.bayes !== DEFAULTS.bayes) words.set("bayes", String(sixDigits(state.bayes)));
  if (state.q !== DEFAULTS.q) words.set("q", state.q);
  if (state.q === "hand" && state.m) {
    words.set("m", pairOf(state.m));
    words.set("s", pairOf(state.s));
  }
  words.set("kernel", state.kernel);
  if (state.step !== null) words.set("step", String(sixDigits(state.step)));
  for (const name of ["chains", "seed", "draws"]) words.set(name, String(state[name]));
  if (state.theme) words.set("theme", state.theme);
  return `#${words.toString().replaceAll("%2C", ",")}`;
}

// The state of an address; whatever is missing or makes no sense is as at first.
export function fromHash(hash, { rows, pixels }) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  const numbers = (name, count) => {
    const values = (words.get(name) ?? "").split(",").map(Number);
    return words.get(name) && values.length === count && values.every(Number.isFinite) ? values : null;
  };
  const whole = (name, low, high) => {
    const value = numbers(name, 1);
    return value && Number.isInteger(value[0]) ? clamp(value[0], low, high) : DEFAULTS[name];
  };
  const among = (name, choices) => (choices.includes(words.get(name)) ? words.get(name) : DEFAULTS[name]);
  state.z = (numbers("z", 2) ?? DEFAULTS.z).map((value) => clamp(value, -50, 50));
  state.x = whole("x", 0, rows - 1);
  const drawn = words.get("drawn");
  if (drawn && pixels && new RegExp(`^[0-9a-f]{${pixels}}$`).test(drawn)) state.drawn = drawingFromText(drawn);
  state.bayes = clamp((numbers("bayes", 1) ?? [DEFAULTS.bayes])[0], 0, 2);
  state.q = among("q", Q_NAMES);
  state.m = numbers("m", 2);
  state.s = numbers("s", 2)?.map((value) => clamp(value, 1e-4, 20)) ?? null;
  if (!state.m || !state.s) [state.m, state.s] = [null, null];
  state.kernel = among("kernel", KERNEL_NAMES);
  const step = numbers("step", 1);
  state.step = step && step[0] > 0 ? clamp(step[0], 1e-3, 10) : null;
  state.chains = whole("chains", 1, 8);
  state.seed = whole("seed", 1, 1e6);
  state.draws = whole("draws", 0, MOST_DRAWS);
  state.theme = ["dark", "light"].includes(words.get("theme")) ? words.get("theme") : null;
  return state;
}
