// Figure 5: chains over the exact posterior, and what they say of themselves.

import { autocorrelation, effectiveSize, splitRhat } from "./diagnostics.mjs";
import { fixed, percent } from "./format.mjs";
import { makeChains, makeTarget } from "./kernels.mjs";
import { classColour, colour, densityImage, Plane } from "./plane.mjs";
import { plotLags, plotRunning } from "./plots.mjs";
import { makeRandom } from "./random.mjs";
import { judgeAcceptance, judgeChains } from "./tasks.mjs";
import { inSlices } from "./work.mjs";

const MOST = 5000; // draws a chain
const SHOWN = 400; // of each chain
const LAGS = 30;
const BUDGET = 9; // milliseconds of walking a frame

export function chainsFigure(app) {
  const root = document.getElementById("chains");
  const plane = new Plane(root.querySelector(".plane"), { ...app.wholeView });
  const kernels = [...root.querySelectorAll("input[name=kernel]")];
  const slider = root.querySelector(".step input");
  const output = root.querySelector(".step output");
  const count = root.querySelector(".count");
  const run = root.querySelector(".run");
  const readout = root.querySelector(".readout");
  const number = (name) => root.querySelector(`[data-number=${name}]`);
  let picture = null;
  let chains = null;
  let running = false;

  const typical = () => {
    const { covariance } = app.posterior;
    return Math.sqrt(Math.min(covariance[0][0], covariance[1][1])) * (app.state.kernel === "hmc" ? 0.4 : 0.15);
  };
  const step = () => app.state.step ?? typical();

  // Chains from the seed: they start far apart, anywhere within 3.8 standard deviations.
  const begin = () => {
    const random = makeRandom(app.state.seed);
    const { mean, covariance } = app.posterior;
    const starts = Array.from({ length: 8 }, () => mean.map((m, i) => m + 3.8 * Math.sqrt(covariance[i][i]) * (2 * random.uniform() - 1)));
    const settings = { kernel: app.state.kernel, step: step(), chains: app.state.chains, seed: app.state.seed };
    chains = makeChains(makeTarget(app.posterior), settings, starts, makeRandom);
  };
  function* walkTo(draws, own) {
    while (own.states[0].draws.length < draws) {
      own.advance();
      yield;
    }
  }
  const pause = () => {
    running = false;
    run.textContent = "Run";
    run.setAttribute("aria-pressed", "false");
  };
  const again = () => {
    pause();
    if (app.posterior) begin();
    figure.draw();
    app.changed();
  };

  kernels.forEach((choice) =>
    choice.addEventListener("change", () => {
      app.state.kernel = choice.value;
      again();
    }),
  );
  slider.addEventListener("input", () => {
    app.state.step = 10 ** Number(slider.value);
    again();
  });
  count.addEventListener("change", () => {
    app.state.chains = Number(count.value);
    again();
  });
  root.querySelector(".again").addEventListener("click", again);
  root.querySelector(".seed").addEventListener("click", () => {
    app.state.seed += 1;
    again();
  });
  root.querySelector(".one").addEventListener("click", () => {
    if (!chains) return;
    pause();
    chains.advance();
    figure.draw();
    app.changed();
  });
  run.addEventListener("click", () => {
    if (!chains) return;
    if (running) pause();
    else {
      running = true;
      run.textContent = "Pause";
      run.setAttribute("aria-pressed", "true");
      requestAnimationFrame(walk);
    }
    figure.draw();
  });

  // A few draws a frame: one at first, so that each can be followed, more as the chain grows.
  function walk() {
    if (!running) return;
    const done = chains.states[0].draws.length;
    const many = Math.max(1, Math.min(20, Math.floor(done / 60)));
    const end = performance.now() + BUDGET;
    for (let k = 0; k < many && performance.now() < end; k++) chains.advance();
    if (chains.states[0].draws.length >= MOST) pause();
    figure.draw();
    app.changed();
    if (running) requestAnimationFrame(walk);
  }

  function diagnose() {
    const draws = chains.states[0].draws.length;
    const late = chains.states.map((chain) => chain.draws.slice(Math.floor(draws / 5)));
    const of = (i) => late.map((part) => part.map((z) => z[i]));
    const { mean, covariance } = app.posterior;
    const both = [0, 1].map(of);
    const enough = draws >= 20;
    return {
      kernel: app.state.kernel,
      chains: app.state.chains,
      draws,
      accept: shareAccepted(draws),
      rhat: enough ? Math.max(...both.map(splitRhat)) : NaN,
      ess: enough ? Math.min(...both.map(effectiveSize)) : NaN,
      lags: enough ? autocorrelation(both[0], LAGS) : [],
      means: both.map((parts) => parts.flat().reduce((sum, value) => sum + value, 0) / parts.flat().length),
      errors: both.map((parts, i) => {
        const all = parts.flat();
        return Math.abs(all.reduce((sum, value) => sum + value, 0) / all.length - mean[i]) / Math.sqrt(covariance[i][i]);
      }),
    };
  }

  function shareAccepted(draws) {
    const late = chains.states.flatMap((chain) => chain.accepts.slice(Math.floor(draws / 5)));
    return late.reduce((sum, value) => sum + value, 0) / late.length;
  }

  function runningMeans() {
    const draws = chains.states[0].draws.length;
    const every = Math.max(1, Math.floor(draws / 300));
    return [0, 1].map((i) => {
      let sum = 0;
      const values = [];
      for (let t = 0; t < draws; t++) {
        for (const chain of chains.states) sum += chain.draws[t][i];
        if (t % every === 0 || t === draws - 1) values.push(sum / ((t + 1) * chains.states.length));
      }
      return values;
    });
  }

  const figure = {
    get chains() {
      return chains;
    },
    get draws() {
      return chains ? chains.states[0].draws.length : 0;
    },
    diagnose: () => diagnose(),
    restyle() {
      picture = app.posterior && densityImage(app.posterior.fine, "exact", 1);
    },
    // Of a new x; chains of a link walk as far as they had.
    async renew(draws) {
      pause();
      picture = null;
      plane.view = app.closeView();
      begin();
      const own = chains;
      await inSlices(walkTo(draws, own), () => chains === own);
    },
    draw() {
      if (app.posterior || !chains) plane.begin();
      kernels.forEach((choice) => {
        choice.checked = choice.value === app.state.kernel;
      });
      count.value = String(app.state.chains);
      slider.disabled = app.state.kernel === "gibbs";
      if (!app.posterior || !chains) return;
      slider.value = String(Math.log10(step()));
      slider.setAttribute("aria-valuetext", fixed(step(), 3));
      output.textContent = app.state.kernel === "gibbs" ? "none" : fixed(step(), 3);
      if (!picture) figure.restyle();
      plane.image(picture, app.posterior.fine, 0.75);
      const { mean } = app.posterior;
      const { centre, half } = plane.view;
      for (const i of [0, 1]) {
        const ends = [-1, 1].map((sign) => mean.map((value, j) => (j === i ? value : centre[j] + sign * half)));
        plane.path(ends, { stroke: colour("soft"), width: 1, dash: [3, 4] });
      }
      chains.states.forEach((chain, c) => {
        const fill = classColour(c);
        for (const z of chain.draws.slice(-SHOWN)) plane.dot(z, { fill, radius: 2, alpha: 0.55 });
        plane.path(chain.draws.slice(-12), { stroke: fill, width: 1.2, alpha: 0.7 });
        if (chain.last) {
          const taken = chain.last.taken;
          plane.path(chain.last.path, { stroke: taken ? fill : colour("kl"), width: 2.2, dash: taken ? [] : [4, 3] });
        }
        plane.dot(chain.state.z, { fill, radius: 6, ring: colour("paper") });
      });
      number("draws").textContent = String(figure.draws);
      if (!figure.draws) {
        for (const name of ["accept", "rhat", "ess"]) number(name).textContent = "–";
        plotRunning(root.querySelector(".running"), [[], []], mean, rangeOf());
        plotLags(root.querySelector(".lags"), [], LAGS);
        readout.textContent = "Chains start far apart. Run them.";
        app.mark("accept", judgeAcceptance({ kernel: app.state.kernel, draws: 0 }));
        app.mark("rhat", judgeChains({ chains: app.state.chains, draws: 0 }));
        return;
      }
      const found = diagnose();
      number("accept").textContent = percent(found.accept);
      number("rhat").textContent = fixed(found.rhat);
      number("ess").textContent = Number.isNaN(found.ess) ? "–" : fixed(found.ess, 0);
      plotRunning(root.querySelector(".running"), runningMeans(), mean, rangeOf());
      plotLags(root.querySelector(".lags"), found.lags, LAGS);
      const [a, b] = found.means;
      const said = `Means ${fixed(a)} and ${fixed(b)}; exact ${fixed(mean[0])} and ${fixed(mean[1])}.`;
      if (!running) readout.textContent = said; // a screen reader hears it once the chains stand
      app.mark("accept", judgeAcceptance(found));
      app.mark("rhat", judgeChains(found));
    },
  };
  const rangeOf = () => {
    const { mean, covariance } = app.posterior;
    const reach = 1.5 * Math.sqrt(Math.max(covariance[0][0], covariance[1][1]));
    return [Math.min(...mean) - reach, Math.max(...mean) + reach];
  };
  return figure;
}
