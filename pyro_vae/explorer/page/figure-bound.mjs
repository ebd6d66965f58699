// Figure 4: an approximation q, dragged by hand or given, and the bar of ELBO and KL.

import { ascentStep, bestMeanField, meanField } from "./ascent.mjs";
import { boundWork, elboOf, klOf } from "./bound.mjs";
import { fixed } from "./format.mjs";
import { triangularRoot } from "./gaussian.mjs";
import { colour, densityImage, Plane } from "./plane.mjs";
import { plotBound } from "./plots.mjs";
import { judgeKl } from "./tasks.mjs";
import { inSlices, pointsAtOnce } from "./work.mjs";

const EFFORT = 9000; // points of a rule, at rest

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
  let asked = 0;
  let best = null; // the mean-field q of the highest ELBO

  const handOf = (q) => {
    const covariance = q.length === 1 ? null : app.mixtureOf(q).covariance;
    const mean = covariance ? app.mixtureOf(q).mean : [q[0][1], q[0][2]];
    const sd = covariance ? [0, 1].map((i) => Math.sqrt(covariance[i][i])) : [q[0][3], Math.hypot(q[0][4], q[0][5])];
    return { m: mean, s: sd };
  };
  const start = () => handOf(app.guideQ ?? app.laplaceQ ?? [[1, ...app.posterior.mean, 1, 0, 1]]);
  // Where q by hand begins if it is chosen, rather than taken from what is there: so far off that there is a task.
  const astray = () => {
    const { mean, covariance } = app.posterior;
    const sd = [0, 1].map((i) => Math.sqrt(covariance[i][i]));
    return { m: [mean[0] - 1.4 * sd[0], mean[1] + 1.1 * sd[1]], s: [1.7 * sd[0], 0.5 * sd[1]] };
  };
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
      if (choice.value === "hand" && !app.state.m) Object.assign(app.state, astray());
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
    const next = ascentStep({ m: app.state.m, s: app.state.s }, app.posterior.guess, { rate: 0.12 });
    Object.assign(app.state, { m: next.m, s: next.s });
    if (next.elbo - before < 1e-6) stop();
    figure.draw(climbing);
    app.changed();
    if (climbing) requestAnimationFrame(() => climbOn(next.elbo));
  }

  const refined = (q, { logJoint, logEvidence }) =>
    boundWork(q, logJoint, logEvidence, { effort: EFFORT, size: pointsAtOnce(app.model.cost) });

  function* withBound(found, token) {
    const bound = yield* refined(meanField(found.m, found.s), token);
    return { ...found, ...bound };
  }

  // The guide's q, and the Gaussians of the two highest modes.
  const startsOfClimbs = () => {
    const modes = app.posterior.modes.slice(0, 2).filter(({ covariance }) => covariance);
    return [start(), ...modes.map(({ z, covariance }) => handOf([[1, ...z, ...triangularRoot(covariance)]]))];
  };

  // Both terms, fast enough to follow a hand.
  function measure(q) {
    const { guess, logEvidence } = app.posterior;
    const found = { elbo: elboOf(q, guess, 14), kl: klOf(q, guess, logEvidence, 27) };
    return { ...found, remainder: logEvidence - found.elbo - found.kl };
  }

  // And refined, once q rests.
  function refineSoon(q, delay) {
    asked += 1;
    const own = asked;
    const token = app.posterior;
    clearTimeout(refine);
    refine = setTimeout(async () => {
      const found = await inSlices(refined(q, token), () => own === asked && app.posterior === token);
      if (found) tell({ ...found, refined: true });
    }, delay);
  }

  function tell(found) {
    figure.found = found;
    plotBound(root.querySelector(".bar canvas"), found, app.posterior.logEvidence, app.shift);
    number("elbo").textContent = fixed(found.elbo + app.shift);
    number("kl").textContent = fixed(found.kl);
    number("evidence").textContent = fixed(app.posterior.logEvidence + app.shift);
    const rest = Math.abs(found.remainder);
    number("remainder").textContent = rest < 1e-5 ? "less than 0.00001" : fixed(rest, 5);
    app.mark("kl", judgeKl(shownQ() === "hand" && !climbing && app.touched, found.kl, best));
  }
  const shownQ = () => ((app.state.q === "guide" && !app.guideQ) || (app.state.q === "laplace" && !app.laplaceQ) ? "hand" : app.state.q);

  const figure = {
    get best() {
      return best;
    },
    restyle() {
      picture = app.posterior && densityImage(app.posterior.fine, "exact", 1);
    },
    // A new x: its view, and the best that a mean-field q can do, in the background.
    renew() {
      stop();
      best = null;
      picture = null;
      plane.view = app.closeView();
      const token = app.posterior;
      const fresh = () => app.posterior === token;
      inSlices(bestMeanField(startsOfClimbs(), token.guess), fresh)
        .then((found) => found && inSlices(withBound(found, token), fresh))
        .then((found) => {
          if (!found || !fresh()) return;
          best = found;
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
      plane.image(picture, app.posterior.fine);
      const q = current();
      const shown = shownQ();
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
      tell(measure(q));
      refineSoon(q, moving ? 160 : 0);
      note.textContent = {
        guide: app.guideNote,
        laplace: app.laplaceNote,
        hand: "Solid and dashed: half and 95 % of the mass of q.",
      }[shown];
    },
  };
  return figure;
}
