// The page: reads the model, keeps the state, and tells the figures when to draw.

import { element, paintImage } from "./datum.mjs";
import { boundFigure } from "./figure-bound.mjs";
import { bayesFigure } from "./figure-bayes.mjs";
import { chainsFigure } from "./figure-chains.mjs";
import { datumFigure } from "./figure-datum.mjs";
import { decoderFigure } from "./figure-decoder.mjs";
import { makeMixture, triangularRoot } from "./gaussian.mjs";
import { exactPosterior, surveyOf } from "./grid.mjs";
import { smoothed } from "./interpolation.mjs";
import { makeModel } from "./model.mjs";
import { fromHash, toHash } from "./state.mjs";
import { decodeBase64 } from "./weights.mjs";
import { inSlices } from "./work.mjs";

const text = (id) => document.getElementById(id).textContent;
const content = JSON.parse(text("content"));
const model = makeModel(content, decodeBase64(text("data")));
const pixels = content.image ? content.image[0] * content.image[1] : 0;

// Lowest and highest value of the data, for what is black and what is white.
function rangeOfData() {
  const [low, high] = [[], []];
  for (const x of model.data) {
    const there = x.filter((value) => !Number.isNaN(value));
    low.push(Math.min(...there));
    high.push(Math.max(...there));
  }
  const found = { low: Math.min(...low), high: Math.max(...high) };
  return found.high > found.low ? found : { low: 0, high: 1 };
}

const means = content.guide.q.map((q) => makeMixture(q).mean);

// The prior's mass, and the guide's means, as far as the survey of the plane reaches.
function wholeView() {
  const { low, high } = model.prior;
  const centre = [0, 1].map((i) => (low[i] + high[i]) / 2);
  const reach = Math.max(high[0] - low[0], high[1] - low[1]) / 2;
  const farthest = Math.max(...means.map((mean) => Math.max(...mean.map((value, i) => Math.abs(value - centre[i])))));
  return { centre, half: Math.min(Math.max(0.62 * reach, 1.06 * farthest), reach) };
}

const family = content.likelihood[0].family;
const app = {
  content,
  model,
  state: null,
  survey: null,
  posterior: null,
  guideQ: null,
  laplaceQ: null,
  guideNote: "",
  laplaceNote: "",
  touched: false, // whether q by hand was moved here, rather than read from a link
  wholeView: wholeView(),
  range: rangeOfData(),
  binary: family === "Bernoulli",
  canDraw: content.image !== null && content.likelihood.length === 1 && !["Categorical", "OrderedLogistic"].includes(family),
  means,
  mixtureOf: makeMixture,
  classNames: [...new Set(content.labels ?? [])].sort(),

  // what makes log p(x) one of the table's own units
  get shift() {
    const { drawn, x } = app.state;
    return drawn ? content.shift.drawn : content.shift.data[x];
  },
  get x() {
    const { drawn, x } = app.state;
    if (!drawn) return model.data[x];
    const { low, high } = app.range;
    return drawn.map((value) => low + (high - low) * value);
  },
  labelNumber(row) {
    return content.labels ? app.classNames.indexOf(content.labels[row]) : null;
  },
  // A square around the posterior and the guide's q.
  closeView() {
    const { mean, covariance } = app.posterior;
    const half = [0, 1].map((i) => 4.2 * Math.sqrt(covariance[i][i]));
    let box = [0, 1].map((i) => [mean[i] - half[i], mean[i] + half[i]]);
    if (app.guideQ) {
      const q = makeMixture(app.guideQ);
      box = box.map(([low, high], i) => {
        const reach = 2.6 * Math.sqrt(q.covariance[i][i]);
        return [Math.min(low, q.mean[i] - reach), Math.max(high, q.mean[i] + reach)];
      });
    }
    const centre = box.map(([low, high]) => (low + high) / 2);
    return { centre, half: Math.max(...box.map(([low, high]) => (high - low) / 2)) };
  },
  pick(row) {
    Object.assign(app.state, { x: row, drawn: null, m: null, s: null, draws: 0, step: null });
    app.touched = false;
    renew();
  },
  drawX(values) {
    Object.assign(app.state, { drawn: values, m: null, s: null, draws: 0, step: null });
    app.touched = false;
    renew();
  },
  paintObserved(place, words) {
    if (!content.image) {
      place.textContent = `x: row ${app.state.x + 1}`;
      return;
    }
    if (!place.firstChild) place.append(element("canvas", { role: "img", "aria-label": "x" }), element("span"));
    paintImage(place.firstChild, app.x, content.image, app.range);
    place.lastChild.textContent = words;
  },
  mark(task, { done, text: said }) {
    const place = document.querySelector(`[data-task=${task}]`);
    const status = place.querySelector(".mark");
    place.classList.toggle("done", done);
    if (status.textContent !== said) status.textContent = said;
  },
  changed() {
    clearTimeout(app.writing);
    app.writing = setTimeout(writeAddress, 120);
  },
};

function writeAddress() {
  app.state.draws = app.figures.chains.draws;
  const hash = toHash(app.state);
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

// A new x: its posterior, then whatever rests on it. `draws` is how far chains of a link have walked.
let round = 0;
async function renew(draws = 0) {
  round += 1;
  const own = round;
  app.ready = false;
  app.posterior = null;
  drawAll();
  if (!app.survey) {
    app.survey = await inSlices(surveyOf(model));
    drawAll();
  }
  const posterior = await inSlices(exactPosterior(model, app.survey, app.x), () => own === round);
  if (!posterior || own !== round) return;
  app.posterior = { ...posterior, fine: smoothed(posterior.grid) };
  const { drawn, x } = app.state;
  app.guideQ = drawn ? (model.encode ? model.encode(app.x) : null) : content.guide.q[x];
  app.guideNote = `q(z | x) of the ${content.guide.name} guide.`;
  if (!app.guideQ) app.guideNote = "This page cannot run the guide's encoder: its q is known of the data alone.";
  const [top] = posterior.modes;
  app.laplaceQ = top.covariance ? [[1, ...top.z, ...triangularRoot(top.covariance)]] : null;
  app.laplaceNote = posterior.modes.filter(({ value }) => value > top.value - 8).length > 1
    ? "The Gaussian at the highest mode: it knows nothing of the others."
    : "The Gaussian of the curvature at the mode.";
  app.figures.bound.renew();
  app.figures.bayes.restyle();
  const walked = app.figures.chains.renew(draws);
  drawAll();
  await walked;
  if (own !== round) return;
  app.ready = true;
  app.figures.chains.draw();
  app.changed();
}

function drawAll() {
  for (const figure of document.querySelectorAll("figure")) figure.setAttribute("aria-busy", String(!app.posterior));
  for (const figure of Object.values(app.figures)) figure.draw();
}

function restyleAll() {
  for (const figure of Object.values(app.figures)) figure.restyle?.();
  drawAll();
}

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
function applyTheme() {
  const dark = app.state.theme ? app.state.theme === "dark" : prefersDark.matches;
  document.documentElement.classList.toggle("dark", dark);
}

function fillWords() {
  const words = {
    datum: content.image ? "image" : "row",
    "of-colours": content.labels ? " of different colours" : "",
    "try-bayes": app.canDraw
      ? "Then draw an image of your own, stroke by stroke."
      : "Then pick another row: which column moves the posterior?",
    "of-bars": content.image ? "" : " Bars: mean and one standard deviation, over the range of the data, or the shares of each value; violet, the picked row.",
    units: content.shift.units ? ` of ${content.shift.units}` : "",
    "a-datum": content.image ? "an image" : "a row of the table",
    data: content.image ? "images" : "rows",
    "or-draw": app.canDraw ? ", or draw your own" : "",
    "prior-note": content.prior.family === "grid"
      ? `The prior, a ${content.prior.name}, is known here by its values on a grid, good to about 0.001 nats.` : "",
    footnote: content.guide.reason ? `The encoder does not run here: ${content.guide.reason}.` : "",
  };
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
}

function restore() {
  app.state = fromHash(location.hash, { rows: model.data.length, pixels: app.canDraw ? pixels : 0 });
  app.touched = false;
  applyTheme();
  return renew(app.state.draws);
}

fillWords();
app.state = fromHash(location.hash, { rows: model.data.length, pixels: app.canDraw ? pixels : 0 });
applyTheme();
app.figures = {
  decoder: decoderFigure(app),
  datum: datumFigure(app),
  bayes: bayesFigure(app),
  bound: boundFigure(app),
  chains: chainsFigure(app),
};
document.getElementById("theme").addEventListener("click", () => {
  app.state.theme = document.documentElement.classList.contains("dark") ? "light" : "dark";
  applyTheme();
  restyleAll();
  app.changed();
});
prefersDark.addEventListener("change", () => {
  applyTheme();
  restyleAll();
});
window.addEventListener("hashchange", restore);
let width = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width !== width) drawAll(); // a line of text more is no reason
  width = contentRect.width;
}).observe(document.querySelector("main"));
window.explorer = app; // for those who open the console, and for tests
renew(app.state.draws);
