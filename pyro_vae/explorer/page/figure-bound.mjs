// Figure 4: an approximation q, dragged by hand or given, and the bar of ELBO and KL.

import { ascentStep, bestMeanField, meanField } from "./ascent.mjs";
import { boundOf, elboOf, klOf } from "./bound.mjs";
import { fixed } from "./format.mjs";
import { triangularRoot } from "./gaussian.mjs";
import { colour, densityImage, Plane, prepared } from "./plane.mjs";
import { judgeKl } from "./tasks.mjs";
import { inSlices } from "./work.mjs";

const LIVE_COST = 2.5e7; // multiplications a frame

export function boundFigure(app) {
  const root = document.getElementById("bound");
  const plane = new Plane(root.querySelector(".plane"), { ...app.wholeView });
  const choices = [...root.querySelectorAll("input[name=q]")];
  const ascend = root.querySelector(".ascend");
  const note = root.querySelector(".note");
  const number = (name) => root.querySelector(`[data-number=${name}]`);
  let picture = null;
  let grabbed = null;
  let climbing = false;
  let refine = 0;
  let best = null; // the mean-field q of the highest ELBO

  const handOf = (q) => {
    const covariance = q.length === 1 ? null : app.mixtureOf(q).covariance;
    const mean = covariance ? app.mixtureOf(q).mean : [q[0][1], q[0][2]];
    const sd = covariance ? [0, 1].map((i) => Math.sqrt(covariance[i][i])) : [q[0][3], Math.hypot(q[0][4], q[0][5])];
    return { m: mean, s: sd };
  };
  const start = () => handOf(app.guideQ ?? app.laplaceQ ?? [[1, ...app.posterior.mean, 1, 0, 1]]);
  const current = () => {
    if (app.state.q === "guide" && app.guideQ) return app.guideQ;
    if (app.state.q === "laplace" && app.laplaceQ) return app.laplaceQ;
    if (!app.state.m) Object.assign(app.state, start());
    return meanField(app.state.m, app.state.s);
  };
  const byHand = () => {
    if (app.state.q !== "hand") {
      Object.assign(app.state, handOf(current()));
      app.state.q = "hand";
    }
  };
  const stop = () => {
    climbing = false;
    ascend.textContent = "Let gradient ascent take over";
    ascend.setAttribute("aria-pressed", "false");
  };

  choices.forEach((choice) =>
    choice.addEventListener("change", () => {
      stop();
      if (choice.value === "hand") byHand();
      app.state.q = choice.value;
      figure.draw();
      app.changed();
    }),
  );

  const handles = () => {
    const { m, s } = handOf(current());
    const reach = Math.sqrt(-2 * Math.log(0.5));
    return { centre: m, right: [m[0] + reach * s[0], m[1]], top: [m[0], m[1] + reach * s[1]], reach };
  };
  plane.onDrag(
    (z, distance) => {
      if (!app.posterior) return false;
      const places = handles();
      const near = ["right", "top", "centre"].map((name) => [distance(places[name]), name]).sort((a, b) => a[0] - b[0]);
      grabbed = near[0][0] < 26 ? near[0][1] : "centre";
      stop();
      byHand();
      app.touched = true;
      if (near[0][0] >= 26) app.state.m = z;
      figure.draw(true);
      return true;
    },
    (z) => {
      const { reach } = handles();
      const { m, s } = app.state;
      if (grabbed === "centre") app.state.m = z;
      else {
        const axis = grabbed === "right" ? 0 : 1;
        app.state.s = s.map((old, i) => (i === axis ? Math.max(Math.abs(z[i] - m[i]) / reach, 0.01 * plane.view.half) : old));
      }
      figure.draw(true);
      app.changed();
    },
  );
  plane.onArrows(([dx, dy], event) => {
    if (!app.posterior) return;
    stop();
    byHand();
    app.touched = true;
    const { m, s } = app.state;
    if (event.shiftKey) app.state.s = [s[0] * Math.exp(2 * dx / plane.view.half), s[1] * Math.exp(2 * dy / plane.view.half)];
    else app.state.m = [m[0] + dx / 2, m[1] + dy / 2];
    figure.draw(true);
    app.changed();
  });
  ascend.addEventListener("click", () => {
    if (climbing) {
      stop();
      return;
    }
    byHand();
    app.touched = false;
    climbing = true;
    ascend.textContent = "Stop";
    ascend.setAttribute("aria-pressed", "true");
    climbOn(-Infinity);
  });

  function climbOn(before) {
    if (!climbing || !app.posterior) return;
    const nodes = Math.min(Math.max(Math.floor(Math.sqrt(LIVE_COST / app.model.cost / 10)), 6), 12);
    const next = ascentStep({ m: app.state.m, s: app.state.s }, app.posterior.logJoint, { nodes, rate: 0.12 });
    Object.assign(app.state, { m: next.m, s: next.s });
    if (next.elbo - before < 1e-6) stop();
    figure.draw(climbing);
    app.changed();
    if (climbing) requestAnimationFrame(() => climbOn(next.elbo));
  }

  // Both terms: fast while something moves, and again, refined, when it has come to rest.
  function measure(q, moving) {
    const { logJoint, logEvidence } = app.posterior;
    const points = LIVE_COST / app.model.cost / q.length;
    if (!moving) return boundOf(q, logJoint, logEvidence, Math.min(Math.max(30 * points, 500), 9000));
    const nodes = Math.min(Math.max(Math.floor(Math.sqrt(points / 3)), 5), 16);
    const found = { elbo: elboOf(q, logJoint, nodes), kl: klOf(q, logJoint, logEvidence, 2 * nodes - 1) };
    return { ...found, remainder: logEvidence - found.elbo - found.kl };
  }

  function drawBar({ elbo, kl }) {
    const { context, width } = prepared(root.querySelector(".bar canvas"));
    const span = [3, 10, 30, 100, 300, 1000, 1e4, 1e5].find((nats) => nats > 1.15 * kl) ?? 1e6;
    const [left, right, top, height] = [1, width - 60, 22, 28];
    const at = (value) => right + ((value - app.posterior.logEvidence) / span) * (right - left);
    const edge = Math.max(at(elbo), left);
    context.fillStyle = colour("q");
    context.globalAlpha = 0.85;
    context.fillRect(left, top, edge - left, height);
    context.fillStyle = colour("kl");
    context.fillRect(edge, top, Math.max(right - edge, 0), height);
    context.globalAlpha = 1;
    context.fillStyle = colour("ink");
    context.fillRect(right - 1, top - 8, 2, height + 16);
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "right";
    context.fillText("log p(x)", Math.min(right + 50, width - 1), top - 10);
    context.fillStyle = colour("paper");
    context.textAlign = "left";
    if (edge - left > 60) context.fillText("ELBO", left + 8, top + 18);
    if (right - edge > 34) context.fillText("KL", edge + 8, top + 18);
    context.fillStyle = colour("soft");
    context.font = "11px system-ui, sans-serif";
    const step = span / (span.toString().startsWith("3") ? 3 : 5);
    for (let back = 0; back <= span + 1e-9; back += step) {
      const x = at(app.posterior.logEvidence - back);
      context.textAlign = back === 0 ? "center" : x < 20 ? "left" : "center";
      context.fillText(fixed(app.posterior.logEvidence + app.shift - back, span < 10 ? 1 : 0), x, top + height + 20);
    }
  }

  const figure = {
    get best() {
      return best;
    },
    restyle() {
      picture = app.posterior && densityImage(app.posterior.grid, "exact", 1);
    },
    // A new x: its view, and the best that a mean-field q can do, in the background.
    renew() {
      stop();
      best = null;
      picture = null;
      plane.view = app.closeView();
      const token = app.posterior;
      const starts = [start(), ...app.posterior.modes.slice(0, 2).filter(({ covariance }) => covariance).map(({ z, covariance }) => handOf([[1, ...z, ...triangularRoot(covariance)]]))];
      inSlices(bestMeanField(starts, app.posterior.logJoint), () => app.posterior === token).then((found) => {
        if (!found || app.posterior !== token) return;
        best = { ...found, ...boundOf(meanField(found.m, found.s), token.logJoint, token.logEvidence, 9000) };
        figure.draw();
      });
    },
    draw(moving = false) {
      if (app.posterior || !figure.found) plane.begin();
      app.paintObserved(root.querySelector(".observed"), "x");
      choices.forEach((choice) => {
        choice.disabled = (choice.value === "guide" && app.posterior && !app.guideQ) || (choice.value === "laplace" && app.posterior && !app.laplaceQ);
      });
      ascend.disabled = !app.posterior;
      if (!app.posterior) return;
      if (!picture) figure.restyle();
      plane.image(picture, app.posterior.grid);
      const q = current();
      const shown = app.state.q === "guide" && !app.guideQ ? "hand" : app.state.q;
      choices.forEach((choice) => {
        choice.checked = choice.value === shown;
      });
      for (const one of q) {
        plane.ellipse(one, 0.5, { stroke: colour("q"), width: 2.5 });
        plane.ellipse(one, 0.95, { stroke: colour("q"), width: 1.5, dash: [6, 4] });
      }
      const places = handles();
      plane.dot(places.centre, { fill: colour("q"), radius: 7, ring: colour("paper") });
      if (shown === "hand") for (const name of ["right", "top"]) plane.dot(places[name], { fill: colour("paper"), radius: 7, ring: colour("q") });
      const found = measure(q, moving);
      figure.found = found;
      drawBar(found);
      number("elbo").textContent = fixed(found.elbo + app.shift);
      number("kl").textContent = fixed(found.kl);
      number("evidence").textContent = fixed(app.posterior.logEvidence + app.shift);
      number("remainder").textContent = Math.abs(found.remainder) < 5e-6 ? "0.00001 or better" : fixed(Math.abs(found.remainder), 5);
      note.textContent = {
        guide: app.guideNote,
        laplace: app.laplaceNote,
        hand: "Solid and dashed: half and 95 % of the mass of q.",
      }[shown];
      app.mark("kl", judgeKl(shown === "hand" && !climbing && app.touched, found.kl, best));
      clearTimeout(refine);
      if (moving) refine = setTimeout(() => figure.draw(), 160);
    },
  };
  return figure;
}
