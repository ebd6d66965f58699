// What the tasks ask for, and what to say on the way. Each returns {done, text}.

import { fixed, percent } from "./format.mjs";

export const TARGET = 0.8; // share of accepted proposals
const ENOUGH = 200; // draws

export function judgeKl(byHand, kl, best) {
  if (!best) return { done: false, text: "looking for the best …" };
  if (!byHand) return { done: false, text: "drag q by hand first" };
  const above = kl - best.kl;
  if (above <= 0.05) return { done: true, text: `✓ ${fixed(kl)}, and ${fixed(best.kl)} is the smallest` };
  return { done: false, text: `${fixed(above)} nats above the smallest` };
}

export function judgeAcceptance({ kernel, draws, accept }) {
  if (kernel === "gibbs") return { done: false, text: "Gibbs has no step size" };
  if (draws < ENOUGH) return { done: false, text: `${draws} of ${ENOUGH} draws` };
  if (Math.abs(accept - TARGET) <= 0.05) return { done: true, text: `✓ ${percent(accept)} accepted` };
  return { done: false, text: `${percent(accept)} accepted: the step is too ${accept > TARGET ? "small" : "large"}` };
}

export function judgeChains({ chains, draws, rhat, errors }) {
  if (chains < 4) return { done: false, text: "four chains or more" };
  if (draws < 20) return { done: false, text: "run the chains" };
  const far = Math.max(...errors);
  if (!(rhat < 1.01)) return { done: false, text: `R-hat ${fixed(rhat)}` };
  if (!(far < 0.1)) return { done: false, text: `R-hat is small, but a mean is off by ${fixed(far, 2)} standard deviations` };
  return { done: true, text: `✓ after ${draws} draws a chain` };
}
