// A digit of each kind as strokes, for "Draw one for me". Points are [x, y] from 0 to 1.

const CURVES = {
  0: "50,12 30,22 24,50 30,78 50,88 70,78 76,50 70,22 50,12",
  1: "38,28 54,12 54,88",
  2: "28,28 36,14 54,12 70,22 68,40 48,62 28,86|28,86 74,86",
  3: "30,18 50,12 68,20 66,38 48,47|48,47 68,54 72,72 54,88 28,82",
  4: "62,12 26,62 78,62|62,12 62,88",
  5: "70,14 36,14 32,46|32,46 52,40 70,52 70,74 52,88 28,82",
  6: "62,12 40,32 30,60 36,82 52,88 68,78 66,60 50,54 33,64",
  7: "22,14 78,14 44,88|34,52 72,52",
  8: "66,24 50,12 35,24 40,40 60,56 67,74 50,88 33,74 42,55 60,40 66,24",
  9: "68,28 54,12 36,22 36,42 50,50 66,40 68,28|68,28 66,60 58,88",
};
const SHARP = new Set(["1", "4", "7"]);
const PARTS = 8; // between two points

/** @return {number[][][]} The strokes of a digit from 0 to 9. */
export function sample(digit) {
  return CURVES[digit].split("|").map((text) => {
    const points = text.split(" ").map((pair) => pair.split(",").map((value) => value / 100));
    return between(points, SHARP.has(String(digit)) || points.length === 2);
  });
}

/** Points along a Catmull-Rom spline, smooth where it closes, or along straight lines. */
function between(points, isStraight) {
  const found = [], last = points.length - 1;
  const isClosed = String(points[0]) === String(points[last]);
  const place = (k) => isClosed ? points[(k + last) % last] : points[Math.min(Math.max(k, 0), last)];
  for (let i = 0; i < last; i++) {
    const [before, from, to, after] = [i - 1, i, i + 1, i + 2].map(place);
    for (let part = 0; part < PARTS; part++) {
      const t = part / PARTS;
      found.push(from.map((value, axis) => {
        if (isStraight) return value + t * (to[axis] - value);
        const slope = (to[axis] - before[axis]) / 2, next = (after[axis] - value) / 2;
        const change = to[axis] - value;
        return value + t * (slope + t * (3 * change - 2 * slope - next +
          t * (slope + next - 2 * change)));
      }));
    }
  }
  return [...found, points.at(-1)];
}
