// From strokes to what the model takes: 8 x 8 values from 0 to 16.
//
// The digits that the model was trained on were bitmaps of 32 x 32, scaled so that they touch the
// upper and the lower edge; each value counts the black pixels of a square of 4 x 4. A drawing goes
// the same way. Its size and place on the paper do not matter, and neither does the pen: its width
// is the one that blackens as many pixels as the digits of the data set have on average.

const FINE = 32;
const COARSE = 8;
const INK = 310; // black pixels of a digit of the data set, on average over its training part
const RADII = [1.5, 4.5]; // of the pen, in pixels of the bitmap
const MAX_WIDTH = 22; // pixels; wider drawings are pressed together, others keep their proportions

/**
 * Draws strokes as the data set has its digits.
 * @param {number[][][]} strokes Each a list of points [x, y], y downwards, in any unit.
 * @return {Float32Array} 64 whole values from 0 to 16, row by row; all 0 without a point.
 */
export function toImage(strokes) {
  const drawn = strokes.filter((stroke) => stroke.length > 0);
  if (drawn.length === 0) return new Float32Array(COARSE * COARSE);
  let [low, high] = RADII;
  for (let i = 0; i < 7; i++) {
    const middle = (low + high) / 2;
    if (count(rasterize(fit(drawn, middle), middle)) < INK) low = middle;
    else high = middle;
  }
  return pool(rasterize(fit(drawn, low), low));
}

/** The strokes in pixels of the bitmap, as large as a pen of this radius allows. */
export function fit(strokes, radius) {
  const points = strokes.flat();
  const end = (choose, axis) => points.reduce((most, p) => choose(most, p[axis]), points[0][axis]);
  const left = end(Math.min, 0), top = end(Math.min, 1);
  const width = end(Math.max, 0) - left, height = end(Math.max, 1) - top;
  const down = (FINE - 2 * radius) / Math.max(width, height, 1e-9);
  const across = Math.min(down, (MAX_WIDTH - 2 * radius) / Math.max(width, 1e-9));
  const x0 = (FINE - across * width) / 2, y0 = (FINE - down * height) / 2;
  return strokes.map((s) => s.map(([x, y]) => [x0 + across * (x - left), y0 + down * (y - top)]));
}

/** A bitmap of bytes, 1 where a pixel's centre is under the pen. */
export function rasterize(strokes, radius) {
  const bitmap = new Uint8Array(FINE * FINE);
  for (const stroke of strokes) {
    stroke.forEach((point, i) => stamp(bitmap, stroke[Math.max(i - 1, 0)], point, radius));
  }
  return bitmap;
}

function stamp(bitmap, [ax, ay], [bx, by], radius) {
  const clip = (value) => Math.min(Math.max(value, 0), FINE);
  const x1 = clip(Math.ceil(Math.max(ax, bx) + radius));
  const y1 = clip(Math.ceil(Math.max(ay, by) + radius));
  const length2 = (bx - ax) ** 2 + (by - ay) ** 2 || 1;
  for (let y = clip(Math.floor(Math.min(ay, by) - radius)); y < y1; y++) {
    for (let x = clip(Math.floor(Math.min(ax, bx) - radius)); x < x1; x++) {
      const px = x + 0.5 - ax, py = y + 0.5 - ay;
      const t = Math.min(Math.max((px * (bx - ax) + py * (by - ay)) / length2, 0), 1);
      if ((px - t * (bx - ax)) ** 2 + (py - t * (by - ay)) ** 2 <= radius ** 2) {
        bitmap[FINE * y + x] = 1;
      }
    }
  }
}

const count = (bitmap) => bitmap.reduce((sum, pixel) => sum + pixel, 0);

function pool(bitmap) {
  const size = FINE / COARSE;
  const image = new Float32Array(COARSE * COARSE);
  bitmap.forEach((pixel, i) => {
    image[COARSE * Math.floor(i / FINE / size) + Math.floor((i % FINE) / size)] += pixel;
  });
  return image;
}
