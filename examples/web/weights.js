// Pictures and a description of one layer's weights.

const GAP = 0.5; // between kernels, in cells
const LARGEST_CELL = 16; // in CSS pixels
const HIGHEST = 420;
const number = new Intl.NumberFormat("en");
const small = new Intl.NumberFormat("en", {maximumSignificantDigits: 3});

/** Weights of one tensor by output channel: `rows` of equal length, of kernels of `cells` values. */
export function byChannel({shape, values}) {
  const outputs = shape[0], inputs = shape.at(-1);
  const cells = shape.length > 2 ? shape.slice(1, -1) : [1, 1];
  const length = values.length / outputs;
  const rows = Array.from({length: outputs}, (_, i) => values.subarray(length * i, length * (i + 1)));
  return {rows, inputs, cells: [cells[0], cells.at(-1)]};
}

/** What to call a layer: the name of its tensor without the numbers that make it unique. */
export const nameOf = ({name}) => name.replace(/(_\d+)+$/, "").replaceAll("_", " ");

/** The most distinct values that a channel has. */
export const levelsOf = (weight) =>
  Math.max(...byChannel(weight).rows.map((row) => new Set(row).size));

/** A sentence or two on what a layer holds. */
export function describe(weight) {
  const {rows} = byChannel(weight), count = weight.values.length, levels = levelsOf(weight);
  const what = `${weight.shape.join(" × ")} = ${number.format(count)} weights`;
  if (weight.isFloat) {
    return `${what}, kept in full precision: up to ${number.format(levels)} values in a channel, ` +
      `${number.format(weight.bytes)} bytes.`;
  }
  const largest = rows.map((row) => row.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  const range = [Math.min(...largest), Math.max(...largest)].map((value) => small.format(value));
  if (levels !== 2) return `${what}, with up to ${levels} values in each of ${rows.length} channels.`;
  return `${what}. Each of the ${rows.length} channels has two values, −a and +a, with its own a ` +
    `from ${range.join(" to ")}. As floats they take ${number.format(4 * count)} bytes, in this ` +
    `file a byte each, in the download a bit each: ${number.format(Math.ceil(count / 8))} bytes, ` +
    `and ${number.format(4 * rows.length)} for the values of a.`;
}

/** Every weight as a cell; a kernel is a block, a row of blocks an output channel. */
export function drawKernels(canvas, weight, colours) {
  const {rows, inputs, cells: [high, wide]} = byChannel(weight);
  const columns = inputs > 1 ? inputs : Math.ceil(Math.sqrt(rows.length));
  const lines = inputs > 1 ? rows.length : Math.ceil(rows.length / columns);
  const across = columns * (wide + GAP) - GAP, down = lines * (high + GAP) - GAP;
  const room = canvas.parentElement.clientWidth;
  const fitting = devicePixelRatio * Math.min(room / across, HIGHEST / down);
  const cell = Math.min(fitting < 2 ? fitting : Math.floor(fitting), LARGEST_CELL * devicePixelRatio);
  const context = resize(canvas, across * cell, down * cell);
  rows.forEach((row, output) => {
    const most = row.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
    row.forEach((value, i) => {
      const input = i % inputs, place = Math.floor(i / inputs);
      const block = inputs > 1 ? [input, output] : [output % columns, Math.floor(output / columns)];
      const x = block[0] * (wide + GAP) + (place % wide);
      const y = block[1] * (high + GAP) + Math.floor(place / wide);
      context.globalAlpha = most && Math.abs(value) / most;
      context.fillStyle = value > 0 ? colours.plus : colours.minus;
      const left = Math.round(x * cell), top = Math.round(y * cell);
      context.fillRect(
        left, top, Math.round((x + 1) * cell) - left, Math.round((y + 1) * cell) - top);
    });
  });
}

/** A line for each output channel, with a dot at each value that occurs in it. */
export function drawLevels(canvas, weight, colours) {
  const {rows} = byChannel(weight);
  const scale = devicePixelRatio, width = canvas.parentElement.clientWidth * scale;
  const space = Math.min(Math.max(240 / rows.length, 4), 14) * scale, foot = 24 * scale;
  const context = resize(canvas, width, space * rows.length + foot);
  const most = weight.values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) || 1;
  const radius = Math.min(0.36 * space, 3.5 * scale), middle = width / 2;
  const x = (value) => middle + (value / most) * (middle - radius - 1);
  context.fillStyle = colours.line;
  context.fillRect(middle - scale / 2, 0, scale, space * rows.length);
  rows.forEach((row, output) => {
    const y = (output + 0.5) * space;
    context.globalAlpha = 0.5;
    context.fillStyle = colours.line;
    context.fillRect(0, y - scale / 4, width, scale / 2);
    const distinct = [...new Set(row)];
    context.globalAlpha = distinct.length > 8 ? 0.5 : 1;
    for (const value of distinct) {
      context.fillStyle = value > 0 ? colours.plus : colours.minus;
      context.beginPath();
      context.arc(x(value), y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  });
  labelAxis(context, scale, width, space * rows.length + foot / 2, small.format(most), colours.soft);
}

function labelAxis(context, scale, width, y, most, colour) {
  Object.assign(context, {
    globalAlpha: 1, fillStyle: colour, font: `${13 * scale}px system-ui, sans-serif`,
    textBaseline: "middle",
  });
  [[`−${most}`, 0, "left"], ["0", width / 2, "center"], [most, width, "right"]].forEach(
    ([text, x, align]) => {
      context.textAlign = align;
      context.fillText(text, x, y);
    });
}

function resize(canvas, width, height) {
  canvas.width = Math.round(width);
  canvas.height = Math.round(height);
  canvas.style.width = `${canvas.width / devicePixelRatio}px`;
  return canvas.getContext("2d");
}
