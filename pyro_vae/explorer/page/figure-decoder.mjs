// Figure 1: a point in the plane, and what the decoder makes of it.

import { element, paintImage, paintRow } from "./datum.mjs";
import { pair } from "./format.mjs";
import { classColour, colour, densityImage, Plane } from "./plane.mjs";

export function decoderFigure(app) {
  const root = document.getElementById("decoder");
  const plane = new Plane(root.querySelector(".plane"), app.wholeView);
  const decoded = root.querySelector(".decoded");
  const readout = root.querySelector(".readout");
  const canvas = app.content.image && element("canvas", { role: "img", "aria-label": "the decoded image" });
  if (canvas) decoded.append(canvas);
  else if (app.content.columns.length > 12) {
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", "the decoded row"]]) decoded.setAttribute(name, value);
  }
  let prior = null;

  const names = app.classNames;
  if (names.length > 1 && names.length <= 12) {
    const chips = names.map((name, k) => element("span", { class: "chip", style: `--chip: ${classColour(k)}` }, name));
    root.querySelector(".legend").append(...chips);
  }
  const move = (z) => {
    const { centre, half } = plane.view;
    app.state.z = z.map((value, i) => Math.min(Math.max(value, centre[i] - half), centre[i] + half));
    figure.draw();
    app.changed();
  };
  plane.onDrag((z, distance) => {
    const near = app.means.map((mean, row) => [distance(mean), row]).sort((a, b) => a[0] - b[0])[0];
    if (distance(app.state.z) > 14 && near && near[0] < 9) {
      app.pick(near[1]);
      move(app.means[near[1]]);
      return true;
    }
    move(z);
    return true;
  }, move);
  plane.onArrows(([dx, dy]) => move([app.state.z[0] + dx, app.state.z[1] + dy]));

  const figure = {
    restyle() {
      prior = app.survey && densityImage({ ...app.survey, values: app.survey.logPrior }, "prior", 1);
    },
    draw() {
      if (!prior && app.survey) figure.restyle();
      plane.begin();
      if (prior) plane.image(prior, app.survey, 0.3);
      app.means.forEach((mean, row) => {
        const label = app.labelNumber(row);
        const chosen = !app.state.drawn && row === app.state.x;
        plane.dot(mean, { fill: label === null ? colour("soft") : classColour(label), radius: chosen ? 6 : 4, ring: chosen ? colour("ink") : null, alpha: 0.9 });
      });
      plane.dot(app.state.z, { fill: colour("accent"), radius: 8, ring: colour("paper") });
      const columns = app.model.decode(app.state.z);
      if (canvas) paintImage(canvas, columns.map(({ mean }) => mean), app.content.image, app.range);
      else paintRow(decoded, app.content.columns, columns, app.x);
      readout.textContent = `z = ${pair(app.state.z)}`;
    },
  };
  return figure;
}
