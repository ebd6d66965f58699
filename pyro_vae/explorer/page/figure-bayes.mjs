// Figure 3: prior, likelihood and posterior, faded into one another.

import { fixed } from "./format.mjs";
import { densityImage, Plane } from "./plane.mjs";

export function bayesFigure(app) {
  const root = document.getElementById("bayes");
  const plane = new Plane(root.querySelector(".plane"), app.wholeView);
  const slider = root.querySelector("input");
  const readout = root.querySelector(".readout");
  const pictures = {};

  slider.addEventListener("input", () => {
    app.state.bayes = Number(slider.value);
    figure.draw();
    app.changed();
  });

  const figure = {
    restyle() {
      const { survey, posterior } = app;
      if (survey) pictures.prior = densityImage({ ...survey, values: survey.logPrior }, "prior", 1);
      if (posterior) {
        pictures.likelihood = densityImage({ ...survey, values: posterior.logLikelihood }, "likelihood");
        pictures.posterior = densityImage(posterior.fine, "posterior", 1);
        pictures.grid = posterior.fine; // shown until that of a new x is there
      }
    },
    draw() {
      const { survey, posterior } = app;
      const at = app.state.bayes;
      const steps = ["prior", "likelihood", "posterior"];
      slider.value = String(at);
      slider.setAttribute("aria-valuetext", steps[Math.round(at)]);
      plane.begin();
      if (survey && !pictures.prior) figure.restyle();
      const weight = (k) => Math.max(0, 1 - Math.abs(at - k));
      if (pictures.prior) plane.image(pictures.prior, survey, 0.85 * weight(0) + 0.1 * (1 - weight(0)));
      if (pictures.likelihood) plane.image(pictures.likelihood, survey, weight(1) + 0.15 * weight(2));
      if (pictures.posterior) plane.image(pictures.posterior, pictures.grid, weight(2));
      app.paintObserved(root.querySelector(".observed"), "x, as observed");
      if (!posterior) {
        readout.textContent = "computing …";
        return;
      }
      const { mean, covariance, logEvidence } = posterior;
      const sd = [0, 1].map((i) => Math.sqrt(covariance[i][i]));
      readout.innerHTML = `log p(x) = <b data-number="evidence">${fixed(logEvidence + app.shift)}</b> nats<br>` +
        [0, 1].map((i) => `z<sub>${i + 1}</sub> | x: ${fixed(mean[i])} ± ${fixed(sd[i])}`).join("<br>");
    },
  };
  return figure;
}
