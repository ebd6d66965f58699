// Keys: arrows, page keys and space move by a slide, Home and End to the ends, n shows the notes.
"use strict";
const slides = [...document.querySelectorAll("section")];

function here() {
  const distances = slides.map((slide) => Math.abs(slide.getBoundingClientRect().top));
  return distances.indexOf(Math.min(...distances));
}

function go(index) {
  const slide = slides[Math.max(0, Math.min(slides.length - 1, index))];
  slide.scrollIntoView();
  history.replaceState(null, "", "#" + slide.id);
}

function shrink(element, tooLarge, whole) {
  let size = whole;
  element.style.fontSize = "";
  while (tooLarge() && size > 0.5 * whole) {
    size -= 0.05;
    element.style.fontSize = `${size}em`;
  }
}

function fit() {
  for (const equation of document.querySelectorAll(".equation"))
    shrink(equation, () => equation.scrollWidth > equation.clientWidth + 1, 1.15);
  for (const slide of slides) shrink(slide, () => slide.scrollHeight > window.innerHeight + 1, 1);
}

const moves = {
  ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1,
  Home: -Infinity, End: Infinity,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n") {
    document.body.classList.toggle("with-notes");
    fit();
  } else if (event.key in moves) {
    event.preventDefault();
    go(here() + moves[event.key] * (event.key === " " && event.shiftKey ? -1 : 1));
  }
});
window.addEventListener("resize", fit);
window.addEventListener("load", fit);
