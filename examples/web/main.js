// Wires the page: paper to model, model to scores, file to pictures.

import {download, Model} from "./model.js";
import {Paper} from "./paper.js";
import {sample} from "./samples.js";
import {toImage} from "./strokes.js";
import {readWeights} from "./tflite.js";
import {describe, drawKernels, drawLevels, levelsOf, nameOf} from "./weights.js";

const MOST = 16; // the largest value of the input
const SURE = 0.6; // below it the answer says "perhaps"
const PAUSE = 700; // milliseconds without a change before a screen reader is told

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const percent = new Intl.NumberFormat("en", {style: "percent", maximumFractionDigits: 1});
const rounded = new Intl.NumberFormat("en", {style: "percent"});
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

/** What the page works with; open to tests and to the browser's console. */
const demo = {model: null, paper: null, input: toImage([]), scores: null, settled, failed: null};
window.demo = demo;

demo.paper = new Paper($("paper"), {changed, said: announce});
$("undo").addEventListener("click", () => demo.paper.undo());
$("clear").addEventListener("click", () => demo.paper.clear());
$("example").addEventListener("click", drawSample);
showScores();
demo.ready = start().catch(fail);

async function start() {
  say("Loading the network and the runtime…");
  if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined") {
    throw new Error("this browser has no WebAssembly or no DecompressionStream: update it");
  }
  const [facts, model] = await Promise.all([
    download("model.json").then((bytes) => JSON.parse(new TextDecoder().decode(bytes))),
    Model.load("model.tflite.pqz", new URL("litert/wasm/", location.href).href),
  ]);
  demo.model = model;
  say("");
  showFile(facts, model);
  changed();
  await settled();
  const time = await model.time(demo.input);
  $("time").textContent = `${time.toFixed(2)} ms for a drawing, with LiteRT.js in this browser.`;
}

function say(text) {
  $("status").textContent = text;
}

function fail(error) {
  demo.failed = error;
  say(`The network could not be loaded: ${error.message ?? error}`);
  $("status").classList.add("failed");
  console.error(error);
}

// Drawing and answer.

let wanted = 0;
let running = null;

function changed() {
  wanted++;
  $("undo").disabled = $("clear").disabled = demo.paper.strokes.length === 0;
  $("hint").hidden = demo.paper.strokes.length > 0;
  if (demo.model) running ??= classify().finally(() => (running = null));
}

/** Resolves once the answer is that of what is drawn. */
async function settled() {
  while (running) await running;
}

async function classify() {
  for (let done = -1; done !== wanted; ) {
    done = wanted;
    demo.input = toImage(demo.paper.strokes);
    demo.scores = demo.paper.strokes.length ? await demo.model.run(demo.input) : null;
    showScores();
  }
}

function showScores() {
  const {input, scores} = demo;
  const list = $("scores");
  list.dataset.input = JSON.stringify(Array.from(input));
  list.dataset.scores = JSON.stringify(scores && Array.from(scores));
  const best = scores ? scores.indexOf(Math.max(...scores)) : -1;
  for (let digit = 0; digit < 10; digit++) {
    const row = list.children[digit] ?? list.appendChild(newScore(digit));
    const share = scores?.[digit] ?? 0;
    row.classList.toggle("best", digit === best);
    row.style.setProperty("--share", share);
    row.lastChild.textContent = scores ? percent.format(share) : "–";
  }
  $("best").textContent = best < 0 ? "–" : best;
  $("says").textContent = verdict(scores, best);
  if (scores) announceLater();
  drawSeen(input);
}

function newScore(digit) {
  const row = document.createElement("li");
  row.innerHTML = `<span>${digit}</span><span class="bar"><span></span></span><span></span>`;
  return row;
}

function verdict(scores, best) {
  if (!scores) return "nothing yet";
  return `${scores[best] < SURE ? "perhaps " : ""}a ${best}, ${rounded.format(scores[best])}`;
}

let timer = 0;

function announceLater() {
  clearTimeout(timer);
  timer = setTimeout(() => demo.scores && announce($("says").textContent), PAUSE);
}

function announce(text) {
  $("live").textContent = text;
}

function drawSeen(input) {
  const context = $("seen").getContext("2d");
  context.fillStyle = colour("paper");
  context.fillRect(0, 0, 8, 8);
  context.fillStyle = colour("ink");
  input.forEach((value, i) => {
    context.globalAlpha = value / MOST;
    context.fillRect(i % 8, Math.floor(i / 8), 1, 1);
  });
  context.globalAlpha = 1;
}

let nextSample = 7;

/** Draws a digit point by point, unless less motion is asked for or the paper is used. */
function drawSample() {
  const strokes = sample(nextSample);
  nextSample = (nextSample + 3) % 10;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return demo.paper.set(strokes);
  const points = strokes.flatMap((stroke, i) => stroke.map((point) => [i, point]));
  const drawn = [];
  demo.paper.set(drawn);
  const draw = () => {
    if (demo.paper.strokes !== drawn || demo.paper.pen.pointer !== null) return;
    for (const [i, point] of points.splice(0, 2)) (drawn[i] ??= []).push(point);
    demo.paper.update();
    if (points.length) requestAnimationFrame(draw);
  };
  draw();
}

// The file.

function showFile(facts, model) {
  const weights = readWeights(model.file);
  const count = weights.reduce((sum, {values}) => sum + values.length, 0);
  const binary = weights.filter((weight) => levelsOf(weight) === 2);
  const share = binary.reduce((sum, {values}) => sum + values.length, 0) / count;
  $("summary").textContent =
    `${facts.title}: ${number.format(count)} weights, ${percent.format(share)} of them on two ` +
    `levels. It learnt from ${number.format(facts.num_train)} digits, most sevens of them crossed, ` +
    `and reads ${percent.format(facts.accuracy)} of ${facts.num_test} others.`;
  showSizes([
    ["Float file", facts.float_bytes],
    ["This file, as it runs", model.file.length],
    ["What was downloaded", model.archiveBytes],
  ]);
  const runtime = performance.getEntriesByType("resource")
    .filter(({name}) => name.endsWith(".wasm"))
    .reduce((sum, {decodedBodySize}) => sum + decodedBodySize, 0);
  $("runtime").textContent = runtime
    ? `The runtime, LiteRT.js, adds ${number.format(runtime)} bytes of WebAssembly, once for any model.`
    : "";
  showLayers(weights);
}

function showSizes(sizes) {
  const most = Math.max(...sizes.map(([, bytes]) => bytes));
  $("sizes").replaceChildren(...sizes.map(([name, bytes], i) => {
    const row = document.createElement("div");
    if (i === sizes.length - 1) row.className = "mine";
    row.innerHTML = "<dt></dt><dd></dd><dd class='bar' aria-hidden='true'><span></span></dd>";
    row.children[0].textContent = name;
    row.children[1].textContent = `${number.format(bytes)} bytes`;
    row.style.setProperty("--share", bytes / most);
    return row;
  }));
}

function showLayers(weights) {
  const select = $("layer");
  select.replaceChildren(...weights.map((weight, i) => new Option(
    nameOf(weight) + (weight.isFloat ? " (float)" : ""), i)));
  const show = () => showLayer(weights[select.value]);
  select.addEventListener("change", show);
  new ResizeObserver(show).observe($("layer-says"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    show();
    drawSeen(demo.input);
  });
}

function showLayer(weight) {
  const colours = Object.fromEntries(
    ["plus", "minus", "line", "soft"].map((name) => [name, colour(name)]));
  $("layer-says").textContent = describe(weight);
  drawKernels($("kernels"), weight, colours);
  drawLevels($("levels"), weight, colours);
  const [plus, minus] = weight.isFloat ? ["positive", "negative"] : ["+a", "−a"];
  $("kernels-says").innerHTML =
    `Every weight: <i class="plus"></i> ${plus}, <i class="minus"></i> ${minus}. A block is a ` +
    "kernel; " + (weight.shape.at(-1) > 1 ? "a row is a channel." : "each has its own channel.");
  $("levels-says").textContent = "The values that occur in each channel, a line each.";
}
